// Markdown as a list of blocks that grows: what stands before the last block is not read again.
import { Marked, type Token } from "marked";
import { unlessTooDeep } from "./depth.ts";
import { mathematics } from "./mathematics.ts";

export const reader = new Marked({ gfm: true, breaks: true }, mathematics);

const STEP_CHARS = 20_000;
/** Of a longer block reading takes seconds, if it was written for that. Code is read quickly. */
const MOST_CHARS = 50_000;
const FENCE = /^ {0,3}(?:```|~~~)/;

/** Reads a text that only ever gets longer; a block is the same object until its text changes. */
export class GrowingMarkdown {
  #settled: Token[] = [];
  #settledChars = 0;
  #tail: Token[] = [];
  #text = "";

  /** The blocks of the whole text. */
  blocks(text: string): readonly Token[] {
    if (!text.startsWith(this.#text)) this.#restart();
    // A long text is read as if it grew, so that what is settled is not read again with it.
    for (let end = this.#text.length + STEP_CHARS; end < text.length; end += STEP_CHARS) {
      this.#read(text.slice(0, end));
    }
    if (text !== this.#text || text === "") this.#read(text);
    return [...this.#settled, ...this.#tail];
  }

  #restart(): void {
    this.#settled = [];
    this.#settledChars = 0;
    this.#tail = [];
    this.#text = "";
  }

  #read(text: string): void {
    const tokens = blocksOf(detached(text.slice(this.#settledChars)));
    this.#text = text;
    const last = tokens.findLastIndex((token) => token.type !== "space");
    // Tabs and line ends are rewritten while reading, so only what came back as it was is settled.
    const settling = tokens.slice(0, Math.max(0, Math.min(last, firstOpen(tokens))));
    const raw = settling.map((token) => token.raw).join("");
    if (settling.length > 0 && text.startsWith(raw, this.#settledChars)) {
      this.#settled.push(...settling);
      this.#settledChars += raw.length;
      this.#tail = this.#sameAsBefore(tokens.slice(settling.length));
    } else {
      this.#tail = this.#sameAsBefore(tokens);
    }
  }

  #sameAsBefore(tokens: readonly Token[]): Token[] {
    return tokens.map((token, at) => {
      const before = this.#tail[at];
      return before && before.raw === token.raw && before.type === token.type ? before : token;
    });
  }
}

/** The blocks of a text; one of the type `plain` where it is too long, or nested too deeply. */
function blocksOf(text: string): Token[] {
  const plain = (): Token[] => [{ type: "plain", raw: text, text }];
  if (text.length > MOST_CHARS && !FENCE.test(text)) return plain();
  return unlessTooDeep(() => reader.lexer(text), plain);
}

/** A copy: engines keep the whole text alive for each piece of it, and so every state that it had. */
function detached(piece: string): string {
  return ` ${piece}`.slice(1);
}

/** Mathematics may have blank lines, and what looks like a list: so much is waited for its end. */
const OPEN_CHARS = 4000;

/** Where the first block is whose mathematics has no end yet. */
function firstOpen(tokens: readonly Token[]): number {
  let behind_chars = tokens.reduce((chars, token) => chars + token.raw.length, 0);
  for (const [at, token] of tokens.entries()) {
    if (behind_chars < OPEN_CHARS && token.type === "paragraph" && hasOpen(token.raw)) return at;
    behind_chars -= token.raw.length;
  }
  return tokens.length;
}

function hasOpen(raw: string): boolean {
  return raw.split("$$").length % 2 === 0 || raw.lastIndexOf("\\[") > raw.lastIndexOf("\\]");
}
