// Mathematics in Markdown: \( \), \[ \], $ $, $$ $$ and a bare \boxed{}, as the models write it.
import type { MarkedExtension, TokenizerThis, Tokens } from "marked";

export interface MathsToken extends Tokens.Generic {
  readonly type: "maths" | "mathsBlock";
  readonly tex: string;
  readonly display: boolean;
}

const BLOCK = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;
const DISPLAY = /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])/;
const PARENTHESES = /^\\\(([\s\S]+?)\\\)/;
// Prices are not mathematics: nothing blank inside the signs, and no digit behind.
const DOLLARS = /^\$(?![\s$])((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\d)/;
const BOXED = "\\boxed{";

/** For `marked.use`: tokens of type `maths` and `mathsBlock`, which the page draws itself. */
export const mathematics: MarkedExtension = {
  extensions: [
    {
      name: "mathsBlock",
      level: "block",
      start: (source: string) => firstOf(source, ["$$", "\\["]),
      tokenizer(this: TokenizerThis, source: string) {
        const found = BLOCK.exec(source);
        if (!found) return undefined;
        const tex = (found[1] ?? found[2] ?? "").trim();
        return { type: "mathsBlock", raw: found[0], tex, display: true };
      },
    },
    {
      name: "maths",
      level: "inline",
      start: (source: string) => firstOf(source, ["$", "\\(", "\\[", BOXED]),
      tokenizer(this: TokenizerThis, source: string) {
        return inlineMaths(source);
      },
    },
  ],
};

/** The mathematics at the start of a text; undefined where there is none, or it has no end yet. */
export function inlineMaths(source: string): MathsToken | undefined {
  const display = DISPLAY.exec(source);
  if (display) return maths(display[0], display[1] ?? display[2] ?? "", true);
  const inline = PARENTHESES.exec(source) ?? DOLLARS.exec(source);
  if (inline) return maths(inline[0], inline[1] ?? "", false);
  if (!source.startsWith(BOXED)) return undefined;
  const end = closingBrace(source, BOXED.length);
  return end < 0 ? undefined : maths(source.slice(0, end + 1), source.slice(0, end + 1), false);
}

function maths(raw: string, tex: string, display: boolean): MathsToken {
  return { type: "maths", raw, tex: tex.trim(), display };
}

/** Where the brace closes that was opened before `from`; -1: nowhere. */
function closingBrace(source: string, from: number): number {
  let open = 1;
  for (let at = from; at < source.length; at += 1) {
    const char = source[at];
    if (char === "\\") at += 1;
    else if (char === "{") open += 1;
    else if (char === "}" && (open -= 1) === 0) return at;
    else if (char === "\n") return -1;
  }
  return -1;
}

function firstOf(source: string, signs: readonly string[]): number | undefined {
  const found = signs.map((sign) => source.indexOf(sign)).filter((at) => at >= 0);
  return found.length > 0 ? Math.min(...found) : undefined;
}
