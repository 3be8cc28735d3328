// Mathematics in Markdown: \( \), \[ \], $ $, $$ $$ and a bare \boxed{}, as the models write it.
import type { MarkedExtension, TokenizerThis, Tokens } from "marked";

export interface MathsToken extends Tokens.Generic {
  readonly type: "maths" | "mathsBlock";
  readonly tex: string;
  readonly display: boolean;
}

// Whose end is not within so much has none: a text that is full of beginnings is read quickly too.
const MOST_CHARS = 4000;
/** Beginning, end, and whether it stands in a line of its own. */
const SIGNS = [
  ["$$", "$$", true],
  ["\\[", "\\]", true],
  ["\\(", "\\)", false],
] as const;
const LINE_END = /^[ \t]*(?:\n|$)/;
// Prices are not mathematics: nothing blank inside the signs, and no digit behind.
const DOLLARS = /^\$(?![\s$])((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\d)/;
const BOXED = "\\boxed{";
const BLOCK_SIGN = /\$\$|\\\[/;
const SIGN = /\$|\\\(|\\\[|\\boxed\{/;

/** For `marked.use`: tokens of type `maths` and `mathsBlock`, which the page draws itself. */
export const mathematics: MarkedExtension = {
  extensions: [
    {
      name: "mathsBlock",
      level: "block",
      start: (source: string) => firstOf(source, BLOCK_SIGN),
      tokenizer(this: TokenizerThis, source: string) {
        return blockMaths(source);
      },
    },
    {
      name: "maths",
      level: "inline",
      start: (source: string) => firstOf(source, SIGN),
      tokenizer(this: TokenizerThis, source: string) {
        return inlineMaths(source);
      },
    },
  ],
};

/** The mathematics at the start of a text; undefined where there is none, or it has no end yet. */
export function inlineMaths(source: string): MathsToken | undefined {
  const signed = betweenSigns(source);
  if (signed) return signed;
  const dollars = DOLLARS.exec(source);
  if (dollars) return maths(dollars[0], dollars[1] ?? "", false);
  if (!source.startsWith(BOXED)) return undefined;
  const end = closingBrace(source, BOXED.length);
  return end < 0 ? undefined : maths(source.slice(0, end + 1), source.slice(0, end + 1), false);
}

function blockMaths(source: string): MathsToken | undefined {
  const indent = /^ {0,3}/.exec(source)?.[0] ?? "";
  const found = betweenSigns(source.slice(indent.length));
  if (!found?.display) return undefined;
  const raw = indent + found.raw;
  const lineEnd = LINE_END.exec(source.slice(raw.length));
  return lineEnd ? { ...found, type: "mathsBlock", raw: raw + lineEnd[0] } : undefined;
}

function betweenSigns(source: string): MathsToken | undefined {
  const signs = SIGNS.find(([open]) => source.startsWith(open));
  if (!signs) return undefined;
  const [open, close, display] = signs;
  const end = source.slice(0, MOST_CHARS).indexOf(close, open.length + 1);
  if (end < 0) return undefined;
  return maths(source.slice(0, end + close.length), source.slice(open.length, end), display);
}

function maths(raw: string, tex: string, display: boolean): MathsToken {
  return { type: "maths", raw, tex: tex.trim(), display };
}

/** Where the brace closes that was opened before `from`; -1: nowhere. */
function closingBrace(source: string, from: number): number {
  let open = 1;
  const until = Math.min(source.length, from + MOST_CHARS);
  for (let at = from; at < until; at += 1) {
    const char = source[at];
    if (char === "\\") at += 1;
    else if (char === "{") open += 1;
    else if (char === "}" && (open -= 1) === 0) return at;
    else if (char === "\n") return -1;
  }
  return -1;
}

function firstOf(source: string, sign: RegExp): number | undefined {
  const at = source.search(sign);
  return at < 0 ? undefined : at;
}
