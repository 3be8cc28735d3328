// The user's key: of this tab only, unless the user says "remember".
import { signal } from "@preact/signals";
import { forget, keep, recalled } from "./storage.ts";

const NAME = "tierserve.key";

export const key = signal<string>("");
/** Set where the service has refused to answer without a key, or with this one. */
export const keyWanted = signal<boolean>(false);
/** Whether it has ever refused so. */
export const keysOn = signal<boolean>(false);

export function useKey(value: string, remember: boolean): void {
  forgetKey();
  key.value = value.trim();
  keyWanted.value = false;
  if (key.value) keep(NAME, key.value, remember ? "local" : "session");
}

export function forgetKey(): void {
  key.value = "";
  forget(NAME);
}

/** What was entered before in this tab, or is remembered. */
export function recallKey(): void {
  key.value = recalled(NAME, "session") ?? recalled(NAME) ?? "";
}
