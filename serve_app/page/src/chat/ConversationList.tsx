// The conversations of this browser: found, opened, renamed, moved in and out, deleted.
import { useRef, useState } from "preact/hooks";
import { openDialog } from "../shell/dialogs.ts";
import { Icon, IconButton } from "../shell/Icon.tsx";
import { steady } from "../shell/steady.tsx";
import { t } from "../words/language.ts";
import { titleOf } from "./conversation.ts";
import type { ChatSession } from "./session.ts";
import { ImportError } from "./transfer.ts";

interface ListProps {
  readonly session: ChatSession;
  readonly onChosen: () => void;
}

export function ConversationList({ session, onChosen }: ListProps) {
  const { store } = session;
  const found = store.found.value;
  const none = store.all.value.length === 0 ? t("noConversations") : t("nothingFound");
  return (
    <div class="list">
      <button
        type="button"
        class="primary new"
        onClick={() => {
          session.startNew();
          onChosen();
        }}
      >
        <Icon name="plus" /> {t("newConversation")}
      </button>
      <label class="search">
        <Icon name="search" />
        <input
          type="search"
          aria-label={t("search")}
          placeholder={t("search")}
          dir="auto"
          value={store.search.value}
          onInput={(event) => {
            store.search.value = event.currentTarget.value;
          }}
        />
      </label>
      {found.length === 0 && <p class="none">{none}</p>}
      <ul tabIndex={-1}>
        {found.map((conversation) => (
          <SteadyEntry
            key={conversation.id}
            session={session}
            id={conversation.id}
            title={titleOf(conversation, t("unnamed"))}
            current={session.current.value.id === conversation.id}
            running={session.runOf(conversation) !== null}
            onChosen={onChosen}
          />
        ))}
      </ul>
      <Transfer session={session} />
    </div>
  );
}

interface EntryProps extends ListProps {
  readonly id: string;
  readonly title: string;
  readonly current: boolean;
  readonly running: boolean;
}

const SteadyEntry = steady(Entry);

function Entry({ session, id, title, current, running, onChosen }: EntryProps) {
  return (
    <li class={current ? "current" : ""}>
      <button
        type="button"
        class="open"
        aria-current={current ? "true" : undefined}
        onClick={() => {
          session.open(id);
          onChosen();
        }}
      >
        {running && <span class="pulse" aria-hidden="true" />}
        <span dir="auto">{title}</span>
      </button>
      <IconButton
        icon="pencil"
        label={`${t("rename")}: ${title}`}
        onClick={() => openDialog({ kind: "rename", id, title })}
      />
      <IconButton
        icon="trash"
        label={`${t("deleteConversation")}: ${title}`}
        onClick={() =>
          openDialog({
            kind: "confirm",
            // Isolated: its direction is its own.
            text: t("reallyDelete", { title: `\u2068${title}\u2069` }),
            act: t("delete"),
            onConfirm: () => session.remove(id),
          })
        }
      />
    </li>
  );
}

function Transfer({ session }: { readonly session: ChatSession }) {
  const file = useRef<HTMLInputElement>(null);
  const [said, setSaid] = useState("");
  const { store } = session;
  const count = store.all.value.length;
  const take = async (input: HTMLInputElement): Promise<void> => {
    const chosen = input.files?.[0];
    if (!chosen) return;
    try {
      setSaid(t("imported", { count: await store.import(await chosen.text()) }));
    } catch (error) {
      // A DOMException: the browser could not read the file.
      if (!(error instanceof ImportError || error instanceof DOMException)) throw error;
      setSaid(t("notImported"));
    }
    input.value = "";
  };
  return (
    <footer>
      <IconButton
        icon="out"
        label={t("export")}
        disabled={count === 0}
        onClick={() => save(store.exported(Date.now()))}
      />
      <IconButton icon="in" label={t("import")} onClick={() => file.current?.click()} />
      <input
        ref={file}
        hidden
        type="file"
        accept="application/json,.json"
        onChange={(event) => void take(event.currentTarget)}
      />
      <IconButton
        icon="trash"
        label={t("deleteAll")}
        disabled={count === 0}
        onClick={() =>
          openDialog({
            kind: "confirm",
            text: t("reallyDeleteAll", { count }),
            act: t("deleteAll"),
            onConfirm: () => session.removeAll(),
          })
        }
      />
      <span role="status">{said}</span>
    </footer>
  );
}

function save(text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "tierserve-conversations.json";
  link.click();
  URL.revokeObjectURL(link.href);
}
