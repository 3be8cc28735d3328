// The conversation on the screen, with its list beside it.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { IconButton } from "../shell/Icon.tsx";
import { t } from "../words/language.ts";
import { AnswerView } from "./AnswerView.tsx";
import { Composer } from "./Composer.tsx";
import { hasEnded, titleOf } from "./conversation.ts";
import { ConversationList } from "./ConversationList.tsx";
import { QuestionView } from "./QuestionView.tsx";
import type { ChatSession } from "./session.ts";

/** The reader is at the end while this little is below the screen. */
const AT_END_PX = 80;

export function ChatView({ session }: { readonly session: ChatSession }) {
  const [listOpen, setListOpen] = useState(false);
  const conversation = session.current.value;
  return (
    <div class={`chat-view ${listOpen ? "list-open" : ""}`}>
      <aside aria-label={t("conversations")}>
        <ConversationList session={session} onChosen={() => setListOpen(false)} />
      </aside>
      <button
        type="button"
        class="veil"
        tabIndex={-1}
        aria-hidden="true"
        onClick={() => setListOpen(false)}
      />
      <section
        class="conversation"
        id="conversation"
        aria-label={titleOf(conversation, t("unnamed"))}
      >
        <div class="conversation-bar">
          <IconButton icon="menu" label={t("openList")} onClick={() => setListOpen(!listOpen)} />
          <h1 dir="auto">{titleOf(conversation, t("unnamed"))}</h1>
          <IconButton icon="plus" label={t("newConversation")} onClick={() => session.startNew()} />
        </div>
        <Turns session={session} />
        <Composer session={session} />
      </section>
    </div>
  );
}

function Turns({ session }: { readonly session: ChatSession }) {
  const { id, turns } = session.current.value;
  const run = session.run.value;
  const scroller = useRef<HTMLDivElement>(null);
  useFollowing(scroller, id, turns.length);
  if (turns.length === 0) {
    return (
      <div class="turns welcome">
        <p class="welcome-title">{t("welcome")}</p>
        <p>{t("welcomeMore")}</p>
      </div>
    );
  }
  return (
    <div class="turns" ref={scroller} tabIndex={0} role="group" aria-label={t("conversations")}>
      <div class="column">
        {turns.map((turn, at) =>
          turn.role === "user" ? (
            <QuestionView key={turn.id} session={session} question={turn} />
          ) : (
            <AnswerView
              key={turn.id}
              session={session}
              kept={turn}
              run={run}
              last={at === turns.length - 1}
            />
          ),
        )}
      </div>
      <Announcement session={session} />
    </div>
  );
}

/** Keeps the end in sight while it grows, unless the reader has scrolled away from it. */
function useFollowing(
  scroller: { readonly current: HTMLDivElement | null },
  id: string,
  turns: number,
): void {
  const following = useRef(true);
  useLayoutEffect(() => {
    following.current = true;
    scroller.current?.scrollTo({ top: scroller.current.scrollHeight });
  }, [id, turns]);
  useEffect(() => {
    const element = scroller.current;
    const column = element?.firstElementChild;
    if (!element || !column) return undefined;
    const onScroll = (): void => {
      const below = element.scrollHeight - element.scrollTop - element.clientHeight;
      following.current = below < AT_END_PX;
    };
    const growth = new ResizeObserver(() => {
      if (following.current) element.scrollTo({ top: element.scrollHeight });
    });
    growth.observe(column);
    element.addEventListener("scroll", onScroll, { passive: true });
    return () => {
      growth.disconnect();
      element.removeEventListener("scroll", onScroll);
    };
  }, [id, turns > 0]);
}

/** For screen readers: that an answer has begun, and that it is complete; not each of its words. */
function Announcement({ session }: { readonly session: ChatSession }) {
  const last = session.current.value.turns.at(-1);
  const running = session.run.value !== null;
  const text = running
    ? t("answering")
    : last?.role === "assistant" && hasEnded(last)
      ? t("answered")
      : "";
  return (
    <p class="unseen" role="status">
      {text}
    </p>
  );
}
