// The user's key: of this tab only, unless the user says "remember".
import { signal } from "@preact/signals";

const NAME = "tierserve.key";

export const key = signal<string>("");
/** Set where the service has refused to answer without a key, or with this one. */
export const keyWanted = signal<boolean>(false);

export function useKey(value: string, remember: boolean): void {
  forgetKey();
  key.value = value.trim();
  keyWanted.value = false;
  if (key.value) (remember ? localStorage : sessionStorage).setItem(NAME, key.value);
}

export function forgetKey(): void {
  key.value = "";
  localStorage.removeItem(NAME);
  sessionStorage.removeItem(NAME);
}

/** What was entered before in this tab, or is remembered. */
export function recallKey(): void {
  key.value = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "";
}
