// One answer: its reasoning, its text, how it came about, and what can be done with it.
import { Code, Markdown } from "../markdown/Markdown.tsx";
import { useNow } from "../shell/clock.ts";
import { CopyButton } from "../shell/CopyButton.tsx";
import { IconButton, Icon } from "../shell/Icon.tsx";
import { openDialog } from "../shell/dialogs.ts";
import { count, duration, t } from "../words/language.ts";
import { canContinue, hasEnded, isJson, type Answer } from "./conversation.ts";
import { shownFigures } from "./progress.ts";
import type { Run } from "./runs.ts";
import type { ChatSession } from "./session.ts";
import { tierName } from "./TierChoice.tsx";

const TICK_S = 0.1;

interface AnswerViewProps {
  readonly session: ChatSession;
  readonly kept: Answer;
  /** Of this very answer, while it is streamed. */
  readonly run: Run | null;
  readonly last: boolean;
}

export function AnswerView({ session, kept, run, last }: AnswerViewProps) {
  const answer = run?.answer.value ?? kept;
  const now_ms = useNow(!hasEnded(answer));
  return (
    <article class="answer" aria-label={t("answerOf", { tier: tierName(answer.tier) })}>
      <header>
        <span class="tier-mark" data-tier={answer.tier}>
          {tierName(answer.tier)}
        </span>
        <FiguresLine answer={answer} now_ms={now_ms} />
      </header>
      {answer.reasoning !== "" && <Reasoning answer={answer} now_ms={now_ms} />}
      {answer.text !== "" && <Text answer={answer} />}
      <Waiting session={session} answer={answer} now_ms={now_ms} />
      <Ending session={session} answer={answer} />
      {hasEnded(answer) && <Actions session={session} answer={answer} last={last} />}
    </article>
  );
}

/** JSON is no Markdown: its stars and lines are its own. */
function Text({ answer }: { readonly answer: Answer }) {
  if (!isJson(answer)) return <Markdown text={answer.text} />;
  return (
    <div class="markdown">
      <Code text={answer.text.trim()} lang="json" />
    </div>
  );
}

function FiguresLine({ answer, now_ms }: { readonly answer: Answer; readonly now_ms: number }) {
  const figures = shownFigures(answer.figures, now_ms);
  const { tokens, tokensPerS, firstToken_s, total_s } = figures;
  const counted = answer.figures.exact ? "tokens" : "aboutTokens";
  return (
    <ul class="figures">
      {tokens > 0 && <li data-figure="tokens">{t(counted, { count: count(tokens) })}</li>}
      {tokensPerS !== null && (
        <li data-figure="speed">{t("tokensPerS", { speed: tokensPerS.toFixed(1) })}</li>
      )}
      {firstToken_s !== null && (
        <li data-figure="ttft">{t("firstToken", { time: duration(firstToken_s) })}</li>
      )}
      <li data-figure="total">{t("total", { time: duration(total_s) })}</li>
      {(answer.replayed ?? 0) > 0 && <li data-figure="replayed">{t("replayed")}</li>}
    </ul>
  );
}

function Reasoning({ answer, now_ms }: { readonly answer: Answer; readonly now_ms: number }) {
  const { reasoning_s } = shownFigures(answer.figures, now_ms);
  const runs = answer.state === "reasoning";
  const counted = answer.figures.exact ? "tokens" : "aboutTokens";
  return (
    <details class="reasoning">
      <summary>
        <Icon name="chevron" />
        <span>{runs ? t("reasoningRuns") : t("reasoning")}</span>
        {reasoning_s !== null && <span data-figure="reasoning-time">{duration(reasoning_s)}</span>}
        <span data-figure="reasoning-tokens">
          {t(counted, { count: count(answer.figures.reasoningTokens) })}
        </span>
        {answer.end === "cut" && <span class="cut">{t("reasoningCut")}</span>}
        {answer.end === "unfinished" && <span class="cut">{t("reasoningUnfinished")}</span>}
      </summary>
      <div class="reasoning-text" dir="auto" tabIndex={0} role="group" aria-label={t("reasoning")}>
        {answer.reasoning}
      </div>
    </details>
  );
}

interface PartProps {
  readonly session: ChatSession;
  readonly answer: Answer;
}

function Waiting({ session, answer, now_ms }: PartProps & { readonly now_ms: number }) {
  if (answer.state === "reasoning" || answer.state === "answering" || hasEnded(answer)) return null;
  const left_s = Math.max(0, ((answer.retryAt_ms ?? now_ms) - now_ms) / 1000);
  return (
    <p class="waiting" data-state={answer.state}>
      <span class="pulse" aria-hidden="true" />
      <span>{waitingText(answer, left_s)}</span>
      {answer.state === "refused" && (
        <button type="button" onClick={() => session.stop()}>
          {t("cancel")}
        </button>
      )}
    </p>
  );
}

function waitingText(answer: Answer, left_s: number): string {
  // The clock of what is shown is up to a tick behind the refusal's.
  const whole_s = Math.max(1, Math.ceil(left_s - TICK_S));
  if (answer.state === "refused") {
    const why = answer.error ?? t("tierFull");
    return t("refused", { why, time: `${whole_s} s` });
  }
  if (answer.state === "queued") {
    if (answer.ahead === null) return t("queuedStart");
    return answer.ahead === 0 ? t("queuedNext") : t("queued", { ahead: answer.ahead });
  }
  return t("sent");
}

/** What the user should know of how the answer ended, and how to go on. */
function Ending({ session, answer }: PartProps) {
  if (!hasEnded(answer)) return null;
  const text = endingText(answer);
  return (
    <>
      {text !== null && (
        <p
          class="ending"
          data-state={answer.state}
          role={answer.state === "done" ? undefined : "alert"}
        >
          <span>
            {text} {answer.error !== null && <span dir="auto">{answer.error}</span>}
          </span>
          {canContinue(answer) && (
            <button type="button" onClick={() => session.goOn(answer)}>
              <Icon name="forward" /> {t("goOn")}
            </button>
          )}
          {!canContinue(answer) && answer.state !== "done" && (
            <button type="button" onClick={() => session.regenerate(answer.id)}>
              <Icon name="again" /> {t("tryAgain")}
            </button>
          )}
        </p>
      )}
      {answer.warning !== null && <p class="warning">{answer.warning}</p>}
    </>
  );
}

function endingText(answer: Answer): string | null {
  switch (answer.state) {
    case "stopped":
      return t("stopped");
    case "broken":
      return answer.error === null ? t("broken") : t("brokenOff");
    case "failed":
      return answer.error === null ? t("unreachable") : t("failed");
    default:
      if (answer.finish === "length") return t("atLimit");
      return answer.finish === "repetition" ? t("repeated") : null;
  }
}

function Actions({ session, answer, last }: PartProps & { readonly last: boolean }) {
  const { body } = answer;
  return (
    <div class="actions">
      <CopyButton text={answer.text} />
      {last && (
        <IconButton
          icon="again"
          label={t("regenerate")}
          onClick={() => session.regenerate(answer.id)}
        />
      )}
      {body !== null && (
        <IconButton
          icon="code"
          label={t("showRequest")}
          onClick={() => openDialog({ kind: "request", body })}
        />
      )}
      <IconButton
        icon="trash"
        label={t("deleteTurn")}
        onClick={() => session.deleteTurn(answer.id)}
      />
    </div>
  );
}
