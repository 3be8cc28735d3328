import assert from "node:assert/strict";
import { test } from "node:test";
import { GrowingMarkdown, reader } from "../src/markdown/blocks.ts";
import { hiddenHost, safeAddress } from "../src/markdown/links.ts";
import { inlineMaths } from "../src/markdown/mathematics.ts";

const TEXT = `# Title

Let \\(n\\) be
a number.

$$
n = 1

+ 2
$$

- one
- two

  still two

| a | b |
|---|---|
| 1 | 2 |

\`\`\`python
def f():

    return "$$"
\`\`\`

So \\boxed{20}.
`;

function kinds(text: string): readonly string[] {
  return reader
    .lexer(text)
    .filter(({ type }) => type !== "space")
    .map(({ type }) => type);
}

test("a text that grows by a character is read as the whole text is", () => {
  const growing = new GrowingMarkdown();
  for (let end = 1; end <= TEXT.length; end += 1) growing.blocks(TEXT.slice(0, end));
  const blocks = growing.blocks(TEXT).filter(({ type }) => type !== "space");
  assert.deepEqual(
    blocks.map(({ type }) => type),
    kinds(TEXT),
  );
  assert.equal(
    blocks.map(({ raw }) => raw.trim()).join("|"),
    reader
      .lexer(TEXT)
      .filter(({ type }) => type !== "space")
      .map(({ raw }) => raw.trim())
      .join("|"),
  );
});

test("blocks before the last one stay the same objects, so that nothing flickers", () => {
  const growing = new GrowingMarkdown();
  const before = growing.blocks("One.\n\nTwo.\n\nThr");
  const after = growing.blocks("One.\n\nTwo.\n\nThree.");
  assert.equal(before[0], after[0]);
  assert.equal(before[2], after[2]);
  assert.notEqual(before.at(-1), after.at(-1));
});

test("reading on costs what is new, not what was there", () => {
  const growing = new GrowingMarkdown();
  let text = "";
  const began = performance.now();
  for (let block = 0; block < 3000; block += 1) {
    text += `Paragraph ${block} with some words in it.\n\n`;
    growing.blocks(text);
  }
  assert.ok(performance.now() - began < 5000);
});

test("another text is read from its start", () => {
  const growing = new GrowingMarkdown();
  growing.blocks("# One\n\nTwo");
  assert.deepEqual(
    growing.blocks("Other").map(({ raw }) => raw),
    ["Other"],
  );
});

test("mathematics is found in each of its spellings, and prices are left alone", () => {
  assert.equal(inlineMaths("\\(a_1\\) b")?.tex, "a_1");
  assert.deepEqual([inlineMaths("$$x$$")?.display, inlineMaths("\\[x\\]")?.display], [true, true]);
  assert.equal(inlineMaths("$x^2$, y")?.tex, "x^2");
  assert.equal(inlineMaths("$5 and $6"), undefined);
  assert.equal(inlineMaths("$ x $"), undefined);
  assert.equal(inlineMaths("\\boxed{\\frac{1}{2}} so")?.raw, "\\boxed{\\frac{1}{2}}");
  assert.equal(inlineMaths("\\boxed{20"), undefined);
  assert.equal(inlineMaths("\\(20"), undefined);
});

test("only three schemes become links", () => {
  for (const address of ["https://a.b/c", "http://a.b", "mailto:a@b.c"])
    assert.notEqual(safeAddress(address), null);
  for (const address of [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    " javascript:x",
    "data:text/html,x",
    "vbscript:x",
    "//a.b",
    "/api",
    "blob:x",
    "file:///etc",
  ]) {
    assert.equal(safeAddress(address), null, address);
  }
});

test("the host behind a link is named where the label says another one, or looks like one", () => {
  for (const [label, address, host] of [
    ["https://bank.com", "https://evil.example/x", "evil.example"],
    ["bank.com/login", "https://evil.example", "evil.example"],
    ["www.bank.de", "https://www.bank.de.evil.example", "www.bank.de.evil.example"],
    ["\u0430pple.com", "https://\u0430pple.com", "xn--pple-43d.com"],
    ["here", "https://\u0430pple.com", "xn--pple-43d.com"],
    ["https://bank.com/a", "https://bank.com/a?b", null],
    ["bank.com", "https://bank.com/", null],
    ["the docs", "https://a.b/c", null],
    ["Node.js", "https://nodejs.org", null],
    ["a@b.com", "mailto:a@b.com", null],
  ] as const) {
    assert.equal(hiddenHost(label, new URL(address).href), host, label);
  }
});

test("what is nested too deeply is shown as it was written, behind what stood before it", () => {
  for (const text of [`${"> ".repeat(4000)}x`, `${"- ".repeat(4000)}x`]) {
    const growing = new GrowingMarkdown();
    growing.blocks("# Before\n\n> a");
    const blocks = growing.blocks(`# Before\n\n> a\n${text}`);
    assert.deepEqual([blocks[0]?.type, blocks.at(-1)?.type], ["heading", "plain"]);
    assert.equal(blocks.map(({ raw }) => raw).join(""), `# Before\n\n> a\n${text}`);
  }
});

test("a text as long as a book is read whole, and its code stays code", () => {
  const code = "x = 1\n".repeat(10_000);
  const text = `${"Some words.\n\n".repeat(10_000)}\`\`\`python\n${code}\`\`\`\n\nEnd.`;
  const blocks = new GrowingMarkdown().blocks(text).filter(({ type }) => type !== "space");
  assert.equal(blocks.length, 10_002);
  assert.equal(blocks.at(-2)?.type, "code");
  assert.equal(blocks.map(({ raw }) => raw.trim()).join("\n\n"), text);
});

test("mathematics whose end is far away has none, so that no text takes long to read", () => {
  for (const [open, close] of [
    ["$$", "$$"],
    ["\\[", "\\]"],
    ["\\(", "\\)"],
    ["\\boxed{", "}"],
  ] as const) {
    assert.ok(inlineMaths(`${open}${"x".repeat(3000)}${close}`));
    assert.equal(inlineMaths(`${open}${"x".repeat(9000)}${close}`), undefined);
  }
});

test("display mathematics in a line of text does not reach to the next one", () => {
  const inLine = reader.lexer("$$a$$ b $$c$$\n\nd").filter(({ type }) => type !== "space");
  assert.equal(inLine[0]?.type, "paragraph");
  assert.equal(inLine[1]?.type === "mathsBlock" && inLine[1]["tex"], "c");
  assert.deepEqual(kinds("  $$a$$  \nd"), ["mathsBlock", "paragraph"]);
});
