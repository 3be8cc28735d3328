// A block of Markdown as HTML. Nothing of a model's answer gets to the page but through `clean`.
import DOMPurify from "dompurify";
import temml from "temml";
import { Marked, type RendererObject, type Token, type Tokens } from "marked";
import { unlessTooDeep } from "./depth.ts";
import { hiddenHost, safeAddress } from "./links.ts";
import { mathematics, type MathsToken } from "./mathematics.ts";

const renderer: RendererObject = {
  // HTML in an answer is shown, not obeyed.
  html: ({ text }: Tokens.HTML | Tokens.Tag) => escaped(text),
  link(token: Tokens.Link) {
    const label = this.parser.parseInline(token.tokens);
    const address = safeAddress(token.href);
    if (address === null) return `${label} (${escaped(token.href)})`;
    const host = hiddenHost(token.text, address);
    const behind = host === null ? "" : ` (${escaped(host)})`;
    return `<a href="${escaped(address)}" target="_blank" rel="noopener noreferrer nofollow">${label}</a>${behind}`;
  },
  // A picture would report to another server that, and by its address what, someone reads.
  image(token: Tokens.Image) {
    const label = escaped(token.text || token.href);
    const address = safeAddress(token.href);
    if (address === null) return label;
    return `<a href="${escaped(address)}" target="_blank" rel="noopener noreferrer nofollow">↗ ${label}</a>`;
  },
  checkbox: ({ checked }: Tokens.Checkbox) => (checked ? "☑ " : "☐ "),
  tablecell({ header, align, tokens }: Tokens.TableCell) {
    const name = header ? "th" : "td";
    const side = align === "right" ? "end" : align === "center" ? "center" : "start";
    return `<${name} dir="auto" class="${side}">${this.parser.parseInline(tokens)}</${name}>`;
  },
  table(token: Tokens.Table) {
    const rowOf = (row: Tokens.TableCell[]): string =>
      `<tr>${row.map((cell) => this.tablecell(cell)).join("")}</tr>`;
    const rows = token.rows.map(rowOf).join("");
    const head = `<thead>${rowOf(token.header)}</thead>`;
    return `<div class="wide" tabindex="0" role="group"><table>${head}<tbody>${rows}</tbody></table></div>`;
  },
};

const writer = new Marked({ gfm: true, breaks: true }, mathematics, {
  renderer,
  extensions: [
    { name: "maths", renderer: (token) => drawn(token as MathsToken) },
    { name: "mathsBlock", renderer: (token) => drawn(token as MathsToken) },
  ],
});

/** They turn letters around, which only serves to make a text look like another one. */
const OVERRIDES = /[\u202d\u202e]/g;

/** The block as HTML that may be put into the page. */
export function htmlOf(block: Token): string {
  const html = unlessTooDeep(
    () => clean(writer.parser([block])),
    () => escaped(block.raw),
  );
  return html.replace(OVERRIDES, "");
}

const REFUSED_TAGS = [
  "img",
  "svg",
  "style",
  "form",
  "input",
  "button",
  "textarea",
  "select",
  "iframe",
  "audio",
  "video",
  "source",
  "picture",
  "link",
  "meta",
  "base",
  "object",
  "embed",
  "dialog",
  "template",
];
const REFUSED_ATTRIBUTES = [
  "style",
  "src",
  "srcset",
  "action",
  "formaction",
  "background",
  "poster",
  "xlink:href",
  "id",
  "name",
];

/** Values of attributes: three schemes, or what has none. */
const VALUES = /^(?:(?:https?|mailto):|[^a-z]|[a-z+.-]+(?:[^a-z+.\-:]|$))/i;

/** HTML without anything that acts, loads or looks like a part of the page itself. */
export function clean(html: string): string {
  return DOMPurify.sanitize(html, {
    USE_PROFILES: { html: true, mathMl: true },
    FORBID_TAGS: REFUSED_TAGS,
    FORBID_ATTR: REFUSED_ATTRIBUTES,
    ADD_ATTR: ["target", "display", "tabindex"],
    ALLOW_DATA_ATTR: false,
    ALLOWED_URI_REGEXP: VALUES,
  });
}

/** No rule and no space of mathematics is larger. */
const MOST_EM = 20;

function drawn(token: MathsToken): string {
  const settings = {
    displayMode: token.display,
    throwOnError: false,
    trust: false,
    maxExpand: 200,
    // In em and in pt.
    maxSize: [MOST_EM, MOST_EM * 10] as [number, number],
  };
  const math = unlessTooDeep(
    () => styleless(temml.renderToString(token.tex, settings)),
    () => `<span class="maths-wrong">${escaped(token.raw)}</span>`,
  );
  return token.display ? `<div class="wide" tabindex="0" role="group">${math}</div>` : math;
}

/** The policy takes no inline styles, so the two that say something become classes. */
function styleless(math: string): string {
  return math
    .replace(/ style="[^"]*border:1px solid[^"]*"/g, ' class="maths-boxed"')
    .replace(/ style="color:#b22222;"/g, ' class="maths-wrong"')
    .replace(/ style="[^"]*"/g, "");
}

export function escaped(text: string): string {
  const names: Readonly<Record<string, string>> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
  };
  return text.replace(/[&<>"]/g, (char) => names[char] ?? char);
}
