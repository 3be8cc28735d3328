// `/api/usage`: what each key has used, where keys exist.
import { getQuietly, ServiceError } from "../service/client.ts";
import { isObject, listAt, numberAt, textAt, type JsonObject } from "../service/json.ts";

export interface KeyUsage {
  readonly key: string;
  readonly requests: number;
  readonly promptTokens: number;
  /** Reasoning counts among them. */
  readonly answerTokens: number;
  readonly refused: number;
  /** Seconds of a whole GPU. */
  readonly gpu_s: number;
}

/** null: this service counts no usage, or not for this key. */
export async function fetchUsage(signal: AbortSignal): Promise<readonly KeyUsage[] | null> {
  try {
    return usageByKey(await getQuietly("/api/usage?group_by=key", signal));
  } catch (error) {
    if (error instanceof ServiceError) return null;
    throw error;
  }
}

/** Summed over days, tiers and models; the key that used most comes first. */
export function usageByKey(body: unknown): readonly KeyUsage[] {
  const byKey = new Map<string, KeyUsage>();
  for (const row of listAt(body, "data").filter(isObject)) {
    const key = textAt(row, "key") ?? "";
    const before = byKey.get(key);
    byKey.set(key, {
      key,
      requests: (before?.requests ?? 0) + (numberAt(row, "requests") ?? 0),
      promptTokens: (before?.promptTokens ?? 0) + (numberAt(row, "prompt_tokens") ?? 0),
      answerTokens: (before?.answerTokens ?? 0) + newTokens(row),
      refused: (before?.refused ?? 0) + (numberAt(row, "refused") ?? 0),
      gpu_s: (before?.gpu_s ?? 0) + (numberAt(row, "gpu_s") ?? 0),
    });
  }
  return [...byKey.values()].toSorted((a, b) => total(b) - total(a));
}

function newTokens(row: JsonObject): number {
  return (numberAt(row, "answer_tokens") ?? 0) + (numberAt(row, "reasoning_tokens") ?? 0);
}

function total(usage: KeyUsage): number {
  return usage.promptTokens + usage.answerTokens;
}
