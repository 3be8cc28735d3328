// One streamed chat completion: the body that asks for it, and what its stream says.
import type { Conversation, Turn } from "../chat/conversation.ts";
import { schemaOf, type TierChoices } from "../chat/settings.ts";
import { errorInEvent, send } from "./client.ts";
import { parsed, type JsonObject } from "./json.ts";
import { itemsOf, requestsAhead } from "./sse.ts";

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
  /** The answer is to go on from this message. */
  readonly prefix?: true;
}

export interface CompletionBody {
  readonly model: string;
  readonly messages: readonly Message[];
  readonly stream: true;
  readonly stream_options: { readonly include_usage: true };
  readonly temperature?: number;
  readonly top_p?: number;
  readonly max_completion_tokens?: number;
  readonly thinking_token_budget?: number;
  readonly reasoning_effort?: string;
  readonly task?: string;
  readonly seed?: number;
  readonly response_format?: JsonObject;
}

/** The request for the next answer. Throws SchemaTextError. */
export function completionBody(
  tier: string,
  conversation: Pick<Conversation, "system">,
  turns: readonly Turn[],
  choices: TierChoices,
): CompletionBody {
  const schema = schemaOf(choices);
  const { temperature, topP, limit, budget, effort, task, seed } = choices;
  return {
    model: tier,
    messages: messagesOf(conversation.system, turns),
    stream: true,
    stream_options: { include_usage: true },
    ...(temperature !== null && { temperature }),
    ...(topP !== null && { top_p: topP }),
    ...(limit !== null && { max_completion_tokens: limit }),
    ...(budget !== null && { thinking_token_budget: budget }),
    ...(effort !== null && budget === null && { reasoning_effort: effort }),
    ...(task !== null && { task }),
    ...(seed !== null && { seed }),
    ...(schema !== null && {
      response_format: { type: "json_schema", json_schema: { name: "answer", schema } },
    }),
  };
}

/** The same request, whose answer goes on from what had come. */
export function continuationBody(body: CompletionBody, begun: string): CompletionBody {
  const answer: Message = { role: "assistant", content: begun, prefix: true };
  const messages = body.messages.filter((message) => message.prefix !== true);
  return { ...body, messages: [...messages, answer] };
}

function messagesOf(system: string, turns: readonly Turn[]): readonly Message[] {
  const messages: Message[] = [];
  if (system.trim()) messages.push({ role: "system", content: system });
  for (const turn of turns) {
    // An answer of which nothing came says nothing to the model.
    if (turn.role === "assistant" && !turn.text.trim()) continue;
    messages.push({ role: turn.role, content: turn.text });
  }
  return messages;
}

export type StreamEvent =
  | { readonly kind: "opened"; readonly warning: string | null }
  | { readonly kind: "waiting"; readonly ahead: number | null }
  | { readonly kind: "chunk"; readonly chunk: unknown }
  | { readonly kind: "end" };

/** What a stream says, in its order. Throws ServiceError, and TypeError where the stream breaks. */
export async function* streamCompletion(
  body: CompletionBody,
  signal: AbortSignal,
): AsyncGenerator<StreamEvent> {
  const response = await send("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "text/event-stream" },
    body: JSON.stringify(body),
    signal,
  });
  yield { kind: "opened", warning: response.headers.get("x-tierserve-warning") };
  for await (const item of itemsOf(response, signal)) {
    if (item.kind === "comment") {
      const ahead = requestsAhead(item.text);
      if (ahead !== undefined) yield { kind: "waiting", ahead };
      continue;
    }
    if (item.data === "[DONE]") {
      yield { kind: "end" };
      return;
    }
    const chunk = parsed(item.data);
    const error = errorInEvent(chunk);
    if (error) throw error;
    yield { kind: "chunk", chunk };
  }
}
