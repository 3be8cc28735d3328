// The page: two views, and the dialog that is open over them.
import { ChatView } from "../chat/ChatView.tsx";
import { RequestDialog } from "../chat/RequestDialog.tsx";
import { SettingsDialog } from "../chat/SettingsDialog.tsx";
import type { ChatSession } from "../chat/session.ts";
import { keyWanted } from "../service/key.ts";
import { StatusView } from "../status/StatusView.tsx";
import { Confirm } from "./Dialog.tsx";
import { closeDialog, dialog } from "./dialogs.ts";
import { KeyDialog } from "./KeyDialog.tsx";
import { RenameDialog } from "./RenameDialog.tsx";
import { TopBar, view } from "./TopBar.tsx";

interface AppProps {
  readonly session: ChatSession;
  /** The user has entered a key. */
  readonly onKey: () => void;
}

export function App({ session, onKey }: AppProps) {
  return (
    <>
      <TopBar />
      <main>{view.value === "chat" ? <ChatView session={session} /> : <StatusView />}</main>
      <OpenDialog session={session} onKey={onKey} />
    </>
  );
}

function OpenDialog({ session, onKey }: AppProps) {
  const opened = dialog.value;
  if (keyWanted.value || opened?.kind === "key") {
    const close = (): void => {
      keyWanted.value = false;
      closeDialog();
    };
    const entered = (): void => {
      close();
      onKey();
    };
    return <KeyDialog onKey={entered} onClose={close} />;
  }
  switch (opened?.kind) {
    case undefined:
      return null;
    case "settings":
      return <SettingsDialog session={session} tier={opened.tier} onClose={closeDialog} />;
    case "request":
      return <RequestDialog body={opened.body} onClose={closeDialog} />;
    case "rename":
      return (
        <RenameDialog
          title={opened.title}
          onName={(title) => session.rename(opened.id, title)}
          onClose={closeDialog}
        />
      );
    case "confirm":
      return <Confirm {...opened} onClose={closeDialog} />;
  }
}
