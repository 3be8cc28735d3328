import assert from "node:assert/strict";
import { test } from "node:test";
import { GrowingMarkdown, reader } from "../src/markdown/blocks.ts";
import { safeAddress } from "../src/markdown/links.ts";
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
