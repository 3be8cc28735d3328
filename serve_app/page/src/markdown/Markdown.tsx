// An answer's Markdown. Each block is drawn again only when its own text changes.
import type { Token, Tokens } from "marked";
import { Component } from "preact";
import { useRef } from "preact/hooks";
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

interface BlockProps {
  readonly block: Token;
}

/** Skipped, rather than drawn from memory: an element that is kept keeps the tree it was drawn in,
 * and so all states of a text that grows. */
class Block extends Component<BlockProps> {
  override shouldComponentUpdate(next: BlockProps): boolean {
    return next.block !== this.props.block;
  }

  override render() {
    const { block } = this.props;
    if (block.type === "space" || block.type === "def") return null;
    if (block.type === "code") return <Code block={block as Tokens.Code} />;
    return <div dir="auto" dangerouslySetInnerHTML={{ __html: htmlOf(block) }} />;
  }
}

function Code({ block }: { readonly block: Tokens.Code }) {
  const language = /^[\w+#.-]*/.exec(block.lang ?? "")?.[0].toLowerCase() ?? "";
  const label = language || t("code");
  return (
    <figure class="code" dir="ltr">
      <figcaption>
        <span>{label}</span>
        <CopyButton text={block.text} label={t("copyCode")} />
      </figcaption>
      <pre tabIndex={0} aria-label={label}>
        <code dangerouslySetInnerHTML={{ __html: highlighted(block.text, language) }} />
      </pre>
    </figure>
  );
}
