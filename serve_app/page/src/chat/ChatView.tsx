// The conversation on the screen, with its list beside it.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { IconButton } from "../shell/Icon.tsx";
import { steady } from "../shell/steady.tsx";
import { count, t } from "../words/language.ts";
import { AnswerView } from "./AnswerView.tsx";
import { Composer } from "./Composer.tsx";
import { hasEnded, titleOf } from "./conversation.ts";
import { ConversationList } from "./ConversationList.tsx";
import { QuestionView } from "./QuestionView.tsx";
import type { ChatSession } from "./session.ts";

/** The reader is at the end while this little is below the screen. */
const AT_END_PX = 80;
/** Turns that are drawn at once: a thousand take seconds. */
const SHOWN_TURNS = 60;

const SteadyQuestion = steady(QuestionView);
const SteadyAnswer = steady(AnswerView);

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
        {session.store.unsaved.value && session.store.all.value.length > 0 && (
          <p class="unsaved" role="alert">
            {t("unsaved")}
          </p>
        )}
        <Composer session={session} />
      </section>
    </div>
  );
}

function Turns({ session }: { readonly session: ChatSession }) {
  const { id, turns } = session.current.value;
  const run = session.run.value;
  const scroller = useRef<HTMLDivElement>(null);
  const [shown, setShown] = useState({ id, turns: SHOWN_TURNS });
  const earlier = Math.max(0, turns.length - (shown.id === id ? shown.turns : SHOWN_TURNS));
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
        {earlier > 0 && (
          <button
            type="button"
            class="earlier"
            onClick={() => setShown({ id, turns: turns.length - earlier + SHOWN_TURNS })}
          >
            {t("showEarlier", { count: count(earlier) })}
          </button>
        )}
        {turns.slice(earlier).map((turn) =>
          turn.role === "user" ? (
            <SteadyQuestion key={turn.id} session={session} question={turn} />
          ) : (
            <SteadyAnswer
              key={turn.id}
              session={session}
              kept={turn}
              run={run?.answer.peek().id === turn.id ? run : null}
              last={turn === turns.at(-1)}
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
