// Copies a text, and says so.
import { useEffect, useState } from "preact/hooks";
import { t } from "../words/language.ts";
import { IconButton } from "./Icon.tsx";

const SHOWN_MS = 1500;

export function CopyButton({ text, label }: { readonly text: string; readonly label?: string }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = (): void => {
    void copyText(text).then(() => setCopied(true));
  };
  const name = copied ? t("copied") : (label ?? t("copy"));
  return <IconButton icon={copied ? "check" : "copy"} label={name} onClick={copy} />;
}

/** The clipboard needs HTTPS or localhost, and the browser's consent; a selection does anywhere. */
async function copyText(text: string): Promise<void> {
  const written = await navigator.clipboard?.writeText(text).then(
    () => true,
    () => false,
  );
  if (written) return;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
