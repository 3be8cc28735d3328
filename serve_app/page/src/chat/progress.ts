// What each event of a stream makes of an answer. Pure: the time is an argument.
import { isObject, listAt, numberAt, objectAt, textAt } from "../service/json.ts";
import type { StreamEvent } from "../service/completion.ts";
import type { Answer, Figures, ReasoningEnd } from "./conversation.ts";

const ENDS: ReadonlySet<string> = new Set(["complete", "cut", "off", "unfinished"]);

/** The answer after one more event. `before`: the figures of the part that this stream goes on from. */
export function afterEvent(
  answer: Answer,
  event: StreamEvent,
  now_ms: number,
  before: Figures | null = null,
): Answer {
  switch (event.kind) {
    case "opened":
      return { ...answer, warning: event.warning ?? answer.warning };
    case "waiting":
      return { ...answer, state: "queued", ahead: event.ahead };
    case "chunk":
      return afterChunk(answer, event.chunk, now_ms, before);
    case "end":
      return ended(answer, answer.state === "broken" ? "broken" : "done", now_ms);
  }
}

export function ended(
  answer: Answer,
  state: "done" | "stopped" | "broken" | "failed",
  now_ms: number,
  error: string | null = null,
): Answer {
  const figures = { ...answer.figures, ended_ms: now_ms };
  return { ...answer, state, ahead: null, retryAt_ms: null, error, figures };
}

function afterChunk(
  answer: Answer,
  chunk: unknown,
  now_ms: number,
  before: Figures | null,
): Answer {
  if (!isObject(chunk)) return answer;
  let next = answer;
  const choice = listAt(chunk, "choices")[0];
  if (choice !== undefined) {
    next = withText(next, objectAt(choice, "delta"), now_ms);
    const finish = textAt(choice, "finish_reason");
    if (finish !== null) next = { ...next, finish };
  }
  const repeated = textAt(chunk, "tierserve", "finish_reasons", "0");
  if (repeated !== null) next = { ...next, finish: repeated };
  const replayed = numberAt(chunk, "tierserve", "replayed");
  if (replayed !== null) next = { ...next, replayed: (next.replayed ?? 0) + replayed };
  const thought = listAt(chunk, "tierserve", "thoughts")[0];
  if (thought !== undefined) next = withEnd(next, thought, before);
  return isObject(chunk["usage"]) ? withUsage(next, chunk["usage"], before) : next;
}

function withText(answer: Answer, delta: unknown, now_ms: number): Answer {
  const reasoning = textAt(delta, "reasoning") ?? textAt(delta, "reasoning_content") ?? "";
  const text = textAt(delta, "content") ?? "";
  if (reasoning === "" && text === "") return answer;
  const { figures } = answer;
  return {
    ...answer,
    state: text === "" && answer.text === "" ? "reasoning" : "answering",
    ahead: null,
    reasoning: answer.reasoning + reasoning,
    text: answer.text + text,
    figures: {
      ...figures,
      firstToken_ms: figures.firstToken_ms ?? now_ms,
      answerBegan_ms: figures.answerBegan_ms ?? (text === "" ? null : now_ms),
      // An event has one token, but for those that the tokenizer cannot write alone.
      reasoningTokens: figures.reasoningTokens + (reasoning === "" ? 0 : 1),
      answerTokens: figures.answerTokens + (text === "" ? 0 : 1),
    },
  };
}

function withEnd(answer: Answer, thought: unknown, before: Figures | null): Answer {
  const end = textAt(thought, "end");
  if (end === null || !ENDS.has(end)) return answer;
  // What goes on from an answer has no reasoning of its own.
  return before !== null && end === "off" ? answer : { ...answer, end: end as ReasoningEnd };
}

function withUsage(answer: Answer, usage: unknown, before: Figures | null): Answer {
  const completion = numberAt(usage, "completion_tokens");
  if (completion === null) return answer;
  const reasoning = numberAt(usage, "completion_tokens_details", "reasoning_tokens") ?? 0;
  const figures: Figures = {
    ...answer.figures,
    promptTokens: before?.promptTokens ?? numberAt(usage, "prompt_tokens"),
    reasoningTokens: reasoning + (before?.reasoningTokens ?? 0),
    answerTokens: completion - reasoning + (before?.answerTokens ?? 0),
    exact: before === null || before.exact,
  };
  return { ...answer, figures };
}

/** What is shown of an answer's time and tokens; null: not known yet. */
export interface ShownFigures {
  readonly firstToken_s: number | null;
  readonly reasoning_s: number | null;
  readonly total_s: number;
  readonly tokens: number;
  readonly tokensPerS: number | null;
}

/** What comes at once, as an answer that the service has kept, has no speed. */
const LEAST_STREAM_S = 0.05;

export function shownFigures(figures: Figures, now_ms: number): ShownFigures {
  const { asked_ms, firstToken_ms, answerBegan_ms, ended_ms } = figures;
  const until_ms = ended_ms ?? now_ms;
  const tokens = figures.reasoningTokens + figures.answerTokens;
  const streamed_s = firstToken_ms === null ? 0 : (until_ms - firstToken_ms) / 1000;
  const thought = firstToken_ms !== null && figures.reasoningTokens > 0;
  return {
    firstToken_s: firstToken_ms === null ? null : (firstToken_ms - asked_ms) / 1000,
    reasoning_s: thought ? ((answerBegan_ms ?? until_ms) - firstToken_ms) / 1000 : null,
    total_s: Math.max(0, (until_ms - asked_ms) / 1000),
    tokens,
    // The first token ends the wait, so the speed is that of the others.
    tokensPerS: tokens > 1 && streamed_s >= LEAST_STREAM_S ? (tokens - 1) / streamed_s : null,
  };
}
