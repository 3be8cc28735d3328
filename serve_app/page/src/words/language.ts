// The language of the page: the browser's, or the one that the user chose.
import { computed, effect, signal } from "@preact/signals";
import { keep, recalled } from "../service/storage.ts";
import { chinese } from "./chinese.ts";
import { english, type WordName, type Words } from "./english.ts";

export type Language = "en" | "zh";
const NAME = "tierserve.language";
const LANGUAGES: Readonly<Record<Language, Words>> = { en: english, zh: chinese };

export const language = signal<Language>(chosen());
const words = computed(() => LANGUAGES[language.value]);

export type Values = Readonly<Record<string, string | number>>;

/** A text in the user's language, with `{name}` filled in. */
export function t(name: WordName, values: Values = {}): string {
  return filled(words.value[name], values);
}

export function filled(text: string, values: Values): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

export function chooseLanguage(chosen: Language): void {
  language.value = chosen;
  keep(NAME, chosen);
}

export function followLanguage(): void {
  effect(() => {
    document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en";
  });
}

/** A time as people read it: 0.42 s, 12.3 s, 2 min 5 s. */
export function duration(seconds: number): string {
  const s = Math.max(0, seconds);
  if (s < 1) return `${s.toFixed(2)} s`;
  if (s < 60) return `${s.toFixed(1)} s`;
  return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
}

/** A whole number with its thousands set apart. */
export function count(value: number): string {
  return Math.round(value).toLocaleString(language.value === "zh" ? "zh-CN" : "en");
}

function chosen(): Language {
  const stored = recalled(NAME);
  if (stored === "en" || stored === "zh") return stored;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}
