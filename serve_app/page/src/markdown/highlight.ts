// Colours for code in the languages that are asked for most; all other code stays plain.
import highlighter from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { clean, escaped } from "./html.ts";

const LANGUAGES = {
  bash,
  c,
  cpp,
  css,
  diff,
  go,
  java,
  javascript,
  json,
  python,
  rust,
  sql,
  typescript,
  xml,
  yaml,
};
for (const [name, language] of Object.entries(LANGUAGES))
  highlighter.registerLanguage(name, language);

/** Longer code would take longer than a frame while it streams. */
const MOST_CHARS = 20_000;

/** They change the order in which code is read, and nobody sees them. */
const ORDER_CHANGING = /[\u202a-\u202e\u2066-\u2069]/g;

/** The code as HTML that may be put into the page. */
export function highlighted(code: string, language: string): string {
  return coloured(code, language).replace(
    ORDER_CHANGING,
    (char) => `<span class="hidden-char">U+${char.charCodeAt(0).toString(16).toUpperCase()}</span>`,
  );
}

function coloured(code: string, language: string): string {
  if (code.length > MOST_CHARS || !highlighter.getLanguage(language)) return escaped(code);
  return clean(highlighter.highlight(code, { language, ignoreIllegals: true }).value);
}
