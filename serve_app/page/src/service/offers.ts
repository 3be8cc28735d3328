// `/v1/models` and `/openapi.json`: what each tier offers to whoever has a key, and allows.
import { getJson } from "./client.ts";
import { isObject, listAt, numberAt, objectAt, textAt, type JsonObject } from "./json.ts";

export interface TierOffer {
  readonly name: string;
  readonly model: string | null;
  readonly ready: boolean;
  /** Whether its model reasons before it answers; null where no replica has said. */
  readonly reasons: boolean | null;
  readonly maxModelLen: number | null;
  readonly maxNewTokens: number | null;
  /** What a request gets that leaves it out: `sampling`, `thinking`, `tasks`. */
  readonly defaults: JsonObject;
}

export async function fetchOffers(signal?: AbortSignal): Promise<readonly TierOffer[]> {
  return readOffers(await getJson("/v1/models", signal));
}

/** The served model's own name stands for the first tier and is no other one. */
export function readOffers(body: unknown): readonly TierOffer[] {
  return listAt(body, "data").filter(isObject).filter(isTier).map(readOffer);
}

function isTier(model: JsonObject): boolean {
  return textAt(model, "id") === textAt(model, "limits", "tier");
}

function readOffer(model: JsonObject): TierOffer {
  const reasons = objectAt(model, "defaults")["reasons"];
  return {
    name: textAt(model, "id") ?? "",
    model: textAt(model, "root"),
    ready: model["ready"] !== false,
    reasons: typeof reasons === "boolean" ? reasons : null,
    maxModelLen: numberAt(model, "max_model_len"),
    maxNewTokens: numberAt(model, "limits", "max_new_tokens"),
    defaults: objectAt(model, "defaults"),
  };
}

/** Bounds of a number in a request body; null: none. */
export interface Bounds {
  readonly least: number | null;
  readonly most: number | null;
}

/** The bounds of each numeric field of a tier's chat completions, as `/openapi.json` has them. */
export function fieldBounds(document: unknown, tier: string): Readonly<Record<string, Bounds>> {
  const content = ["post", "requestBody", "content", "application/json", "schema"] as const;
  const given = objectAt(document, "paths", `/api/${tier}/v1/chat/completions`, ...content);
  const name = textAt(given, "$ref")?.split("/").pop();
  const schema = name ? objectAt(document, "components", "schemas", name) : given;
  const bounds: Record<string, Bounds> = {};
  for (const [field, rule] of Object.entries(objectAt(schema, "properties"))) {
    const found = boundsOf(rule);
    if (found) bounds[field] = found;
  }
  return bounds;
}

function boundsOf(rule: unknown): Bounds | null {
  for (const each of [rule, ...listAt(rule, "anyOf")]) {
    const least = numberAt(each, "minimum") ?? numberAt(each, "exclusiveMinimum");
    const most = numberAt(each, "maximum") ?? numberAt(each, "exclusiveMaximum");
    if (least !== null || most !== null) return { least, most };
  }
  return null;
}

/** The task presets of a tier. */
export function tasksOf(tier: TierOffer): readonly string[] {
  return Object.keys(objectAt(tier.defaults, "tasks"));
}

/** The most reasoning tokens that a request with this limit may have: an upper bound. */
export function mostReasoning(tier: TierOffer, limit: number): number {
  const thinking = objectAt(tier.defaults, "thinking");
  if (thinking["enabled"] === false) return 0;
  const share = numberAt(thinking, "answer_share") ?? 0.25;
  const ofLimit = Math.ceil(limit * share);
  const kept = Math.min(numberAt(thinking, "answer_tokens") ?? ofLimit, ofLimit);
  return Math.max(0, Math.min(limit - kept, numberAt(thinking, "budget_tokens") ?? Infinity));
}

/** A default of the tier's sampling, such as "temperature". */
export function samplingDefault(tier: TierOffer, name: string): number | null {
  return numberAt(tier.defaults, "sampling", name);
}
