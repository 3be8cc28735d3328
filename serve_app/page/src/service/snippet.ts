// The request that was just made, as a command line and as a program.
import type { CompletionBody } from "./completion.ts";

/** `curl`, with the key left to a variable: a snippet is there to be passed around. */
export function asCurl(origin: string, body: CompletionBody, withKey: boolean): string {
  const lines = [
    `curl -N ${quoted(`${origin}/v1/chat/completions`)}`,
    "  -H 'content-type: application/json'",
    ...(withKey ? ['  -H "authorization: Bearer $TIERSERVE_KEY"'] : []),
    `  -d ${quoted(JSON.stringify(body, null, 2))}`,
  ];
  return lines.join(" \\\n");
}

/** Fields that OpenAI's client does not know go through `extra_body`. */
const EXTRA: ReadonlySet<string> = new Set(["thinking_token_budget", "task"]);

export function asPython(origin: string, body: CompletionBody, withKey: boolean): string {
  const own = Object.entries(body).filter(([name]) => !EXTRA.has(name));
  const extra = Object.entries(body).filter(([name]) => EXTRA.has(name));
  const key = withKey ? 'os.environ["TIERSERVE_KEY"]' : '"none"';
  const fields = own.map(([name, value]) => `    ${name}=${python(value, 4)},`);
  if (extra.length > 0) fields.push(`    extra_body=${python(Object.fromEntries(extra), 4)},`);
  return [
    ...(withKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${python(`${origin}/v1`, 0)}, api_key=${key})`,
    "stream = client.chat.completions.create(",
    ...fields,
    ")",
    "for chunk in stream:",
    "    for choice in chunk.choices:",
    '        print(choice.delta.content or "", end="", flush=True)',
    "",
  ].join("\n");
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A JSON value as Python writes it. */
export function python(value: unknown, indent: number): string {
  const inner = " ".repeat(indent + 4);
  const close = " ".repeat(indent);
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "number") return String(value);
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]";
    const items = value.map((item) => `${inner}${python(item, indent + 4)},\n`);
    return `[\n${items.join("")}${close}]`;
  }
  const entries = Object.entries(value as Readonly<Record<string, unknown>>);
  if (entries.length === 0) return "{}";
  const items = entries.map(
    ([name, item]) => `${inner}${JSON.stringify(name)}: ${python(item, indent + 4)},\n`,
  );
  return `{\n${items.join("")}${close}}`;
}
