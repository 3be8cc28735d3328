// Conversations as a JSON file, out of the browser and in again. What comes in is checked.
import { isObject, listAt, numberAt, parsed, textAt, type JsonObject } from "../service/json.ts";
import {
  afterReload,
  newAnswer,
  newId,
  type Answer,
  type Conversation,
  type ReasoningEnd,
  type Turn,
} from "./conversation.ts";

const FORMAT = "tierserve.conversations";
const VERSION = 1;

export class ImportError extends Error {
  override name = "ImportError";
}

export function exported(conversations: readonly Conversation[], now_ms: number): string {
  const at = new Date(now_ms).toISOString();
  return JSON.stringify({ format: FORMAT, version: VERSION, exported: at, conversations }, null, 1);
}

/** The conversations of an exported file. Throws ImportError where it is none. */
export function imported(text: string): readonly Conversation[] {
  const file = parsed(text);
  if (!isObject(file) || file["format"] !== FORMAT || file["version"] !== VERSION) {
    throw new ImportError("not a file of conversations");
  }
  return listAt(file, "conversations").filter(isObject).map(readConversation);
}

function readConversation(value: JsonObject): Conversation {
  const created_ms = numberAt(value, "created_ms") ?? 0;
  return afterReload({
    id: textAt(value, "id") ?? newId(),
    title: textAt(value, "title") ?? "",
    created_ms,
    updated_ms: numberAt(value, "updated_ms") ?? created_ms,
    tier: textAt(value, "tier") ?? "",
    system: textAt(value, "system") ?? "",
    turns: withOwnIds(listAt(value, "turns").filter(isObject).map(readTurn)),
  });
}

/** No two turns with one id, whatever the file has. */
function withOwnIds(turns: readonly Turn[]): readonly Turn[] {
  const seen = new Set<string>();
  return turns.map((turn) => {
    const own = seen.has(turn.id) ? { ...turn, id: newId() } : turn;
    seen.add(own.id);
    return own;
  });
}

function readTurn(value: JsonObject): Turn {
  const id = textAt(value, "id") ?? newId();
  const text = textAt(value, "text") ?? "";
  if (value["role"] !== "assistant") return { role: "user", id, text };
  const blank = newAnswer(textAt(value, "tier") ?? "", 0);
  const figures = { ...blank.figures };
  for (const name of ["asked_ms", "firstToken_ms", "answerBegan_ms", "ended_ms"] as const) {
    const time_ms = numberAt(value, "figures", name);
    if (time_ms !== null) Object.assign(figures, { [name]: time_ms });
  }
  const answer: Answer = {
    ...blank,
    id,
    text,
    reasoning: textAt(value, "reasoning") ?? "",
    state: textAt(value, "state") === "done" ? "done" : "stopped",
    end: textAt(value, "end") as ReasoningEnd | null,
    finish: textAt(value, "finish"),
    replayed: numberAt(value, "replayed") ?? 0,
    figures: {
      ...figures,
      promptTokens: numberAt(value, "figures", "promptTokens"),
      reasoningTokens: numberAt(value, "figures", "reasoningTokens") ?? 0,
      answerTokens: numberAt(value, "figures", "answerTokens") ?? 0,
      exact: true,
    },
  };
  return answer;
}
