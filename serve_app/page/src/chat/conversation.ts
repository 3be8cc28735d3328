// A conversation: its turns, and what can be done with them. All plain data, nothing is changed in place.
import type { CompletionBody } from "../service/completion.ts";

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

export function titleOf(conversation: Conversation, unnamed: string): string {
  if (conversation.title) return conversation.title;
  const asked = conversation.turns.find((turn) => turn.role === "user")?.text.trim() ?? "";
  const line = asked.replace(/\s+/g, " ");
  const chars = [...line];
  if (chars.length === 0) return unnamed;
  return chars.length > TITLE_CHARS ? `${chars.slice(0, TITLE_CHARS).join("")}…` : line;
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

/** An answer whose page was closed while it streamed: what had come by then is kept. */
export function afterReload(conversation: Conversation): Conversation {
  const turns = conversation.turns.map((turn): Turn => {
    if (turn.role === "user" || hasEnded(turn)) return turn;
    const state = turn.text || turn.reasoning ? "broken" : "failed";
    return { ...turn, state, ahead: null, retryAt_ms: null };
  });
  return { ...conversation, turns };
}
