// Light, dark, or as the system is.
import { effect, signal } from "@preact/signals";
import { keep, recalled } from "../service/storage.ts";

export type Theme = "auto" | "light" | "dark";
const NAME = "tierserve.theme";

export const theme = signal<Theme>(stored());

export function chooseTheme(chosen: Theme): void {
  theme.value = chosen;
  keep(NAME, chosen);
}

export function followTheme(): void {
  effect(() => {
    document.documentElement.dataset["theme"] = theme.value;
  });
}

function stored(): Theme {
  const value = recalled(NAME);
  return value === "light" || value === "dark" ? value : "auto";
}
