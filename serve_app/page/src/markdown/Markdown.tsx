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
    if (block.type === "code") {
      const { text, lang } = block as Tokens.Code;
      return <Code text={text} lang={lang ?? ""} />;
    }
    if (block.type === "plain") {
      return (
        <div dir="auto" class="plain">
          {block.raw}
        </div>
      );
    }
    return <div dir="auto" dangerouslySetInnerHTML={{ __html: htmlOf(block) }} />;
  }
}

/** `lang`: what stands behind the fence. */
export function Code({ text, lang }: { readonly text: string; readonly lang: string }) {
  const language = /^[\w+#.-]*/.exec(lang)?.[0].toLowerCase() ?? "";
  const label = language || t("code");
  return (
    <figure class="code" dir="ltr">
      <figcaption>
        <span>{label}</span>
        <CopyButton text={text} label={t("copyCode")} />
      </figcaption>
      <pre tabIndex={0} aria-label={label}>
        <code dangerouslySetInnerHTML={{ __html: highlighted(text, language) }} />
      </pre>
    </figure>
  );
}
