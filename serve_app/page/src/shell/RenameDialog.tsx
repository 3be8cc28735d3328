// A new name for a conversation.
import { useState } from "preact/hooks";
import { t } from "../words/language.ts";
import { Dialog } from "./Dialog.tsx";

interface RenameProps {
  readonly title: string;
  readonly onName: (title: string) => void;
  readonly onClose: () => void;
}

export function RenameDialog({ title, onName, onClose }: RenameProps) {
  const [name, setName] = useState(title);
  return (
    <Dialog title={t("rename")} onClose={onClose} class="small">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          onName(name);
          onClose();
        }}
      >
        <label class="field">
          <span>{t("renameTo")}</span>
          <input
            autofocus
            dir="auto"
            value={name}
            onFocus={(event) => event.currentTarget.select()}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>
        <footer>
          <button type="button" onClick={onClose}>
            {t("cancel")}
          </button>
          <button type="submit" class="primary">
            {t("save")}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
