// Asks for the user's key once the service has wanted one.
import { useState } from "preact/hooks";
import { forgetKey, key, keyWanted, useKey } from "../service/key.ts";
import { t } from "../words/language.ts";
import { Dialog } from "./Dialog.tsx";

export function KeyDialog({
  onKey,
  onClose,
}: {
  readonly onKey: () => void;
  readonly onClose: () => void;
}) {
  const [value, setValue] = useState("");
  const [remember, setRemember] = useState(false);
  const refused = keyWanted.value && key.value !== "";
  return (
    <Dialog title={t("keyTitle")} onClose={onClose} class="small">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          useKey(value, remember);
          onKey();
        }}
      >
        <p>{refused ? t("keyWrong") : t("keyText")}</p>
        <label class="field">
          <span>{t("key")}</span>
          <input
            autofocus
            type="password"
            autocomplete="off"
            spellcheck={false}
            required
            value={value}
            onInput={(event) => setValue(event.currentTarget.value)}
          />
        </label>
        <label class="check">
          <input
            type="checkbox"
            checked={remember}
            onChange={(event) => setRemember(event.currentTarget.checked)}
          />
          <span>{t("remember")}</span>
        </label>
        <footer>
          {key.value !== "" && (
            <button
              type="button"
              onClick={() => {
                forgetKey();
                onClose();
              }}
            >
              {t("forgetKey")}
            </button>
          )}
          <button type="submit" class="primary">
            {t("useKey")}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
