// The request that was made, to be made again elsewhere.
import { useState } from "preact/hooks";
import { highlighted } from "../markdown/highlight.ts";
import { key } from "../service/key.ts";
import type { CompletionBody } from "../service/completion.ts";
import { asCurl, asPython } from "../service/snippet.ts";
import { CopyButton } from "../shell/CopyButton.tsx";
import { Dialog } from "../shell/Dialog.tsx";
import { t } from "../words/language.ts";

const FORMS = {
  curl: { write: asCurl, language: "bash" },
  Python: { write: asPython, language: "python" },
} as const;
type Form = keyof typeof FORMS;

export function RequestDialog({
  body,
  onClose,
}: {
  readonly body: CompletionBody;
  readonly onClose: () => void;
}) {
  const [form, setForm] = useState<Form>("curl");
  const { write, language } = FORMS[form];
  const code = write(location.origin, body, key.value !== "");
  return (
    <Dialog title={t("requestAs")} onClose={onClose} class="wide-dialog">
      <fieldset class="segments">
        <legend class="unseen">{t("requestAs")}</legend>
        {(Object.keys(FORMS) as Form[]).map((name) => (
          <label key={name}>
            <input
              type="radio"
              name="form"
              checked={name === form}
              onChange={() => setForm(name)}
            />
            <span>{name}</span>
          </label>
        ))}
      </fieldset>
      <figure class="code" dir="ltr">
        <figcaption>
          <span>{form}</span>
          <CopyButton text={code} label={t("copyCode")} />
        </figcaption>
        <pre tabIndex={0} aria-label={form}>
          <code dangerouslySetInnerHTML={{ __html: highlighted(code, language) }} />
        </pre>
      </figure>
    </Dialog>
  );
}
