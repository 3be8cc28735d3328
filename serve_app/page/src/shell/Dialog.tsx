// A dialog of the browser's own: it keeps the focus, Escape closes it, and the focus goes back.
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { t } from "../words/language.ts";
import { IconButton } from "./Icon.tsx";

interface DialogProps {
  readonly title: string;
  readonly onClose: () => void;
  readonly children: ComponentChildren;
  readonly class?: string;
}

export function Dialog({ title, onClose, children, class: name }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  const gone = useRef(false);
  useLayoutEffect(() => {
    const shown = element.current;
    shown?.showModal();
    return () => {
      gone.current = true;
      // Where one of its buttons has ended it; only a dialog that closes gives the focus back.
      shown?.close();
    };
  }, []);
  return (
    <dialog
      ref={element}
      class={name ?? ""}
      aria-label={title}
      onClose={() => gone.current || onClose()}
      onClick={(event) => {
        if (event.target === element.current) element.current?.close();
      }}
    >
      <div class="dialog-body">
        <header>
          <h2>{title}</h2>
          <IconButton icon="close" label={t("close")} onClick={() => element.current?.close()} />
        </header>
        {children}
      </div>
    </dialog>
  );
}

interface ConfirmProps {
  readonly text: string;
  readonly act: string;
  readonly onConfirm: () => void;
  readonly onClose: () => void;
}

export function Confirm({ text, act, onConfirm, onClose }: ConfirmProps) {
  return (
    <Dialog title={act} onClose={onClose} class="small">
      <p>{text}</p>
      <footer>
        <button type="button" onClick={onClose}>
          {t("cancel")}
        </button>
        <button
          type="button"
          class="danger"
          onClick={() => {
            onConfirm();
            onClose();
          }}
        >
          {act}
        </button>
      </footer>
    </Dialog>
  );
}
