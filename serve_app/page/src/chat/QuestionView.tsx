// One question of the user's: shown as it was written, and edited in its place.
import { useState } from "preact/hooks";
import { CopyButton } from "../shell/CopyButton.tsx";
import { IconButton } from "../shell/Icon.tsx";
import { t } from "../words/language.ts";
import type { Question } from "./conversation.ts";
import type { ChatSession } from "./session.ts";

export function QuestionView({
  session,
  question,
}: {
  readonly session: ChatSession;
  readonly question: Question;
}) {
  const [editing, setEditing] = useState(false);
  if (editing) {
    return (
      <Editing
        text={question.text}
        onCancel={() => setEditing(false)}
        onSend={(text) => {
          setEditing(false);
          session.editAndSend(question.id, text);
        }}
      />
    );
  }
  return (
    <article class="question" aria-label={t("you")}>
      <div class="question-text" dir="auto">
        {question.text}
      </div>
      <div class="actions">
        <CopyButton text={question.text} />
        <IconButton icon="pencil" label={t("editAndSend")} onClick={() => setEditing(true)} />
        <IconButton
          icon="trash"
          label={t("deleteTurn")}
          onClick={() => session.deleteTurn(question.id)}
        />
      </div>
    </article>
  );
}

interface EditingProps {
  readonly text: string;
  readonly onCancel: () => void;
  readonly onSend: (text: string) => void;
}

function Editing({ text: before, onCancel, onSend }: EditingProps) {
  const [text, setText] = useState(before);
  return (
    <form
      class="question editing"
      onSubmit={(event) => {
        event.preventDefault();
        if (text.trim()) onSend(text);
      }}
    >
      <textarea
        aria-label={t("editAndSend")}
        dir="auto"
        ref={(area) => {
          if (area && document.activeElement !== area) area.focus();
        }}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          event.preventDefault();
          onCancel();
        }}
      />
      <footer>
        <button type="button" onClick={onCancel}>
          {t("cancel")}
        </button>
        <button type="submit" class="primary">
          {t("saveAndSend")}
        </button>
      </footer>
    </form>
  );
}
