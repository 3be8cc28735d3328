// A conversation: its turns, and what can be done with them. All plain data, nothing is changed in place.
import type { CompletionBody } from "../service/completion.ts";
import { isObject, parsed } from "../service/json.ts";

export interface Question {
  readonly role: "user";
  readonly id: string;
  readonly text: string;
}

/** How an answer's reasoning ended, in the service's words. */
export type ReasoningEnd = "complete" | "cut" | "off" | "unfinished";

export type AnswerState =
  | "sent" // nothing has come yet
  | "queued" // the service has said that it waits
  | "refused" // asked again by itself at `retryAt_ms`
  | "reasoning"
  | "answering"
  | "done"
  | "stopped" // by the user
  | "broken" // the stream ended early; what has come is kept
  | "failed"; // nothing has come

export interface Figures {
  readonly asked_ms: number;
  readonly firstToken_ms: number | null;
  readonly answerBegan_ms: number | null;
  readonly ended_ms: number | null;
  readonly promptTokens: number | null;
  readonly reasoningTokens: number;
  readonly answerTokens: number;
  /** False while tokens are counted by the events of the stream. */
  readonly exact: boolean;
}

export interface Answer {
  readonly role: "assistant";
  readonly id: string;
  readonly tier: string;
  readonly text: string;
  readonly reasoning: string;
  readonly state: AnswerState;
  readonly ahead: number | null;
  readonly retryAt_ms: number | null;
  readonly error: string | null;
  readonly warning: string | null;
  readonly end: ReasoningEnd | null;
  readonly finish: string | null;
  /** How many times another replica went on with it, its own having gone. */
  readonly replayed?: number;
  readonly figures: Figures;
  readonly body: CompletionBody | null;
}

export type Turn = Question | Answer;

export interface Conversation {
  readonly id: string;
  /** Empty: named after its first question. */
  readonly title: string;
  readonly created_ms: number;
  readonly updated_ms: number;
  readonly tier: string;
  readonly system: string;
  readonly turns: readonly Turn[];
}

const ENDED: ReadonlySet<AnswerState> = new Set(["done", "stopped", "broken", "failed"]);
const TITLE_CHARS = 60;
/** Of one that the user has chosen, or a file has. */
const MOST_TITLE_CHARS = 200;

/** `crypto.randomUUID` is there with HTTPS and on localhost only. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(tier: string, now_ms: number): Conversation {
  const id = newId();
  return { id, title: "", created_ms: now_ms, updated_ms: now_ms, tier, system: "", turns: [] };
}

export function newAnswer(tier: string, now_ms: number): Answer {
  return {
    role: "assistant",
    id: newId(),
    tier,
    text: "",
    reasoning: "",
    state: "sent",
    ahead: null,
    retryAt_ms: null,
    error: null,
    warning: null,
    end: null,
    finish: null,
    figures: {
      asked_ms: now_ms,
      firstToken_ms: null,
      answerBegan_ms: null,
      ended_ms: null,
      promptTokens: null,
      reasoningTokens: 0,
      answerTokens: 0,
      exact: false,
    },
    body: null,
  };
}

/** The clocks of an answer that goes on now: the time since it ended is none of its own. */
export function resumed(figures: Figures, now_ms: number): Figures {
  const idle_ms = now_ms - (figures.ended_ms ?? now_ms);
  const later = (at_ms: number | null): number | null => at_ms && at_ms + idle_ms;
  return {
    ...figures,
    asked_ms: figures.asked_ms + idle_ms,
    firstToken_ms: later(figures.firstToken_ms),
    answerBegan_ms: later(figures.answerBegan_ms),
    ended_ms: null,
  };
}

export function newQuestion(text: string): Question {
  return { role: "user", id: newId(), text };
}

export function hasEnded(answer: Answer): boolean {
  return ENDED.has(answer.state);
}

/** Whether an answer has a beginning that the model can go on from. */
export function canContinue(answer: Answer): boolean {
  if (!hasEnded(answer) || answer.text.trim() === "") return false;
  return answer.state !== "done" || answer.finish === "length";
}

/** Whether it was to be JSON. An answer from a file has no request any more, and is read itself. */
export function isJson(answer: Answer): boolean {
  if (answer.body !== null) return answer.body.response_format !== undefined;
  return isObject(parsed(answer.text));
}

export function titleOf(conversation: Conversation, unnamed: string): string {
  if (conversation.title) return shortened(conversation.title, MOST_TITLE_CHARS);
  const asked = conversation.turns.find((turn) => turn.role === "user")?.text.trimStart() ?? "";
  return shortened(asked, TITLE_CHARS) || unnamed;
}

function shortened(text: string, most: number): string {
  // A character has at most two units, and what is blank shrinks: more is not looked at.
  const line = text.slice(0, most * 20).replace(/\s+/g, " ").trim();
  const chars = [...line];
  return chars.length > most ? `${chars.slice(0, most).join("")}…` : line;
}

/** The turns before this one. */
export function turnsBefore(turns: readonly Turn[], id: string): readonly Turn[] {
  const at = turns.findIndex((turn) => turn.id === id);
  return at < 0 ? turns : turns.slice(0, at);
}

export function withTurn(turns: readonly Turn[], changed: Turn): readonly Turn[] {
  return turns.map((turn) => (turn.id === changed.id ? changed : turn));
}

/** Without this turn; a question takes its answer with it. */
export function withoutTurn(turns: readonly Turn[], id: string): readonly Turn[] {
  const at = turns.findIndex((turn) => turn.id === id);
  if (at < 0) return turns;
  const paired = turns[at]?.role === "user" && turns[at + 1]?.role === "assistant" ? 2 : 1;
  return [...turns.slice(0, at), ...turns.slice(at + paired)];
}

/** Whether every word of the search is somewhere in the conversation. */
export function matches(conversation: Conversation, search: string): boolean {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const texts = conversation.turns.map((turn) => turn.text);
  const all = [conversation.title, ...texts].join("\n").toLowerCase();
  return words.every((word) => all.includes(word));
}

/** An answer whose page was closed while it streamed: what had come by then is kept. Of one of which
 * nothing had, nobody knows more than that it was not awaited. */
export function afterReload(conversation: Conversation): Conversation {
  const turns = conversation.turns.map((turn): Turn => {
    if (turn.role === "user" || hasEnded(turn)) return turn;
    const state = turn.text || turn.reasoning ? "broken" : "stopped";
    const ended_ms = turn.figures.ended_ms ?? turn.figures.asked_ms;
    const figures = { ...turn.figures, ended_ms };
    return { ...turn, state, ahead: null, retryAt_ms: null, figures };
  });
  return { ...conversation, turns };
}
