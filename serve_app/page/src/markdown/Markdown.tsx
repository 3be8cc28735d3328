// An answer's Markdown. Each block is drawn again only when its own text changes.
import type { Token, Tokens } from "marked";
import { useMemo, useRef } from "preact/hooks";
import { CopyButton } from "../shell/CopyButton.tsx";
import { t } from "../words/language.ts";
import { GrowingMarkdown } from "./blocks.ts";
import { highlighted } from "./highlight.ts";
import { htmlOf } from "./html.ts";

export function Markdown({ text }: { readonly text: string }) {
  const reading = useRef<GrowingMarkdown | null>(null);
  reading.current ??= new GrowingMarkdown();
  const blocks = reading.current.blocks(text);
  return (
    <div class="markdown" dir="auto">
      {blocks.map((block, at) => (
        <Block key={at} block={block} />
      ))}
    </div>
  );
}

function Block({ block }: { readonly block: Token }) {
  if (block.type === "space" || block.type === "def") return null;
  if (block.type === "code") return <Code block={block as Tokens.Code} />;
  return <Prose block={block} />;
}

function Prose({ block }: { readonly block: Token }) {
  const html = useMemo(() => htmlOf(block), [block]);
  // Set only when it changes, so that a selection in it stays.
  return useMemo(() => <div dir="auto" dangerouslySetInnerHTML={{ __html: html }} />, [html]);
}

function Code({ block }: { readonly block: Tokens.Code }) {
  const language = /^[\w+#.-]*/.exec(block.lang ?? "")?.[0].toLowerCase() ?? "";
  const html = useMemo(() => highlighted(block.text, language), [block, language]);
  const label = language || t("code");
  return (
    <figure class="code" dir="ltr">
      <figcaption>
        <span>{label}</span>
        <CopyButton text={block.text} label={t("copyCode")} />
      </figcaption>
      <pre tabIndex={0} aria-label={label}>
        <code dangerouslySetInnerHTML={{ __html: html }} />
      </pre>
    </figure>
  );
}
