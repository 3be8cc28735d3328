// Where the user writes, chooses the tier, and stops the answer.
import { useEffect, useRef } from "preact/hooks";
import { openDialog } from "../shell/dialogs.ts";
import { Icon, IconButton } from "../shell/Icon.tsx";
import { t } from "../words/language.ts";
import type { ChatSession } from "./session.ts";
import { SchemaTextError } from "./settings.ts";
import { TierChoice } from "./TierChoice.tsx";

export function Composer({ session }: { readonly session: ChatSession }) {
  const text = session.text.value;
  const area = useRef<HTMLTextAreaElement>(null);
  const { id } = session.current.value;
  const tier = session.tier.value;
  const running = session.run.value !== null;
  useEffect(() => area.current?.focus(), [id]);
  const send = (): void => {
    if (running || text.trim() === "") return;
    try {
      session.ask(text);
      session.text.value = "";
    } catch (error) {
      if (!(error instanceof SchemaTextError)) throw error;
      openDialog({ kind: "settings", tier });
    }
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    // An input method takes Enter for its own while it composes.
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      send();
    }
  };
  useStopByEscape(session, running);
  const offer = session.offerOf(tier);
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={area}
        aria-label={t("message")}
        placeholder={t("messageHint")}
        dir="auto"
        rows={1}
        value={text}
        onInput={(event) => {
          session.text.value = event.currentTarget.value;
        }}
        onKeyDown={onKeyDown}
      />
      <div class="composer-bar">
        <TierChoice session={session} />
        <IconButton
          icon="sliders"
          label={t("settings")}
          onClick={() => openDialog({ kind: "settings", tier })}
        />
        {offer && !offer.ready && <span class="not-ready">{t("notReady")}</span>}
        <SendOrStop session={session} running={running} empty={text.trim() === ""} />
      </div>
    </form>
  );
}

/** Wherever the focus is; a dialog and what is edited have Escape for themselves. */
function useStopByEscape(session: ChatSession, running: boolean): void {
  useEffect(() => {
    if (!running) return undefined;
    const onKeyDown = (event: KeyboardEvent): void => {
      if (event.key !== "Escape" || event.isComposing || event.defaultPrevented) return;
      if (document.querySelector("dialog[open]") === null) session.stop();
    };
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, [session, running]);
}

interface SendOrStopProps {
  readonly session: ChatSession;
  readonly running: boolean;
  readonly empty: boolean;
}

function SendOrStop({ session, running, empty }: SendOrStopProps) {
  const label = running ? t("stop") : t("send");
  return running ? (
    <button
      key="stop"
      type="button"
      class="send stop"
      aria-label={label}
      title={label}
      onClick={() => session.stop()}
    >
      <Icon name="stop" />
    </button>
  ) : (
    <button key="send" type="submit" class="send" aria-label={label} title={label} disabled={empty}>
      <Icon name="send" />
    </button>
  );
}
