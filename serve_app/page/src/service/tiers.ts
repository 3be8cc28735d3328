// `/api/tiers` and `/openapi.json`: what each tier is, allows, and does now.
import { getJson } from "./client.ts";
import { isObject, listAt, numberAt, textAt, valueAt, objectAt, type JsonObject } from "./json.ts";

export interface ReplicaStatus {
  readonly name: string;
  readonly ready: boolean;
  readonly hardware: string;
  readonly gpu: string;
  readonly node: string;
  readonly phases_s: readonly (readonly [string, number])[];
  readonly running: number;
  readonly slots: number;
  readonly queueDepth: number;
  readonly tokensPerS: number | null;
  readonly kvCacheUsage: number | null;
  readonly expectedWait_s: number | null;
  readonly reportAge_s: number;
  readonly stale: boolean;
}

export interface Decision {
  readonly at_s: number;
  readonly target: number;
  readonly desired: number;
  readonly reason: string;
}

export interface TierStatus {
  readonly name: string;
  readonly url: string;
  readonly model: string | null;
  readonly ready: boolean;
  /** Whether its model reasons before it answers; null where no replica has said. */
  readonly reasons: boolean | null;
  readonly maxModelLen: number | null;
  readonly maxNewTokens: number | null;
  readonly settings: JsonObject;
  readonly status: string;
  readonly message: string;
  readonly replicasRunning: number;
  readonly replicasDesired: number | null;
  readonly running: number | null;
  readonly slots: number | null;
  readonly queueDepth: number | null;
  readonly maxQueued: number | null;
  readonly tokensPerS: number | null;
  readonly expectedWait_s: number | null;
  readonly stale: boolean;
  readonly reason: string | null;
  readonly scalingInputs: JsonObject;
  readonly decisions: readonly Decision[];
  readonly replicas: readonly ReplicaStatus[];
}

export async function fetchTiers(signal?: AbortSignal): Promise<readonly TierStatus[]> {
  return readTiers(await getJson("/api/tiers", signal));
}

export function readTiers(body: unknown): readonly TierStatus[] {
  return listAt(body, "tiers").filter(isObject).map(readTier);
}

function readTier(tier: JsonObject): TierStatus {
  const replicas = listAt(tier, "replicas").filter(isObject);
  const scaling = objectAt(tier, "scaling");
  return {
    name: textAt(tier, "tier") ?? "",
    url: textAt(tier, "url") ?? "",
    model: textAt(tier, "model"),
    ready: tier["ready"] === true,
    reasons: replicas.length > 0 ? replicas.some((each) => each["reasons"] !== false) : null,
    maxModelLen: numberAt(tier, "max_model_len"),
    maxNewTokens: numberAt(tier, "max_new_tokens"),
    settings: objectAt(tier, "settings"),
    status: textAt(tier, "status") ?? "",
    message: textAt(tier, "message") ?? "",
    replicasRunning: numberAt(tier, "replicas_running") ?? 0,
    replicasDesired: numberAt(tier, "replicas_wanted"),
    running: numberAt(tier, "running"),
    slots: numberAt(tier, "slots"),
    queueDepth: numberAt(tier, "queue_depth"),
    maxQueued: numberAt(tier, "max_queued_requests"),
    tokensPerS: numberAt(tier, "output_tokens_per_s"),
    expectedWait_s: numberAt(tier, "expected_wait_s"),
    stale: tier["stale"] === true,
    reason: textAt(scaling, "reason"),
    scalingInputs: objectAt(scaling, "inputs"),
    decisions: listAt(scaling, "last").filter(isObject).map(readDecision),
    replicas: replicas.map(readReplica),
  };
}

function readDecision(entry: JsonObject): Decision {
  return {
    at_s: numberAt(entry, "at_s") ?? 0,
    target: numberAt(entry, "replicas_target") ?? 0,
    desired: numberAt(entry, "replicas_wanted") ?? 0,
    reason: textAt(entry, "reason") ?? "",
  };
}

function readReplica(replica: JsonObject): ReplicaStatus {
  const gpus = listAt(replica, "gpu_ids").map(String);
  const type = textAt(replica, "accelerator_type");
  return {
    name: textAt(replica, "replica") ?? "",
    ready: replica["ready"] === true,
    hardware: textAt(replica, "hardware") ?? "",
    gpu: type === null ? "" : `${type} ${gpus.join(", ")}`.trim(),
    node: textAt(replica, "node") ?? "",
    phases_s: Object.entries(objectAt(replica, "start_phases_s")).filter(
      (entry): entry is [string, number] => typeof entry[1] === "number",
    ),
    running: numberAt(replica, "running") ?? 0,
    slots: numberAt(replica, "slots") ?? 0,
    queueDepth: numberAt(replica, "queue_depth") ?? 0,
    tokensPerS: numberAt(replica, "output_tokens_per_s"),
    kvCacheUsage: numberAt(replica, "kv_cache_usage"),
    expectedWait_s: numberAt(replica, "expected_wait_s"),
    reportAge_s: numberAt(replica, "report_age_s") ?? 0,
    stale: replica["stale"] === true,
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
export function tasksOf(tier: TierStatus): readonly string[] {
  return Object.keys(objectAt(tier.settings, "tasks"));
}

/** The most reasoning tokens that a request with this limit may have: an upper bound. */
export function mostReasoning(tier: TierStatus, limit: number): number {
  const thinking = objectAt(tier.settings, "thinking");
  if (thinking["enabled"] === false) return 0;
  const share = numberAt(thinking, "answer_share") ?? 0.25;
  const ofLimit = Math.ceil(limit * share);
  const kept = Math.min(numberAt(thinking, "answer_tokens") ?? ofLimit, ofLimit);
  return Math.max(0, Math.min(limit - kept, numberAt(thinking, "budget_tokens") ?? Infinity));
}

/** A default of the tier's sampling, such as "temperature". */
export function samplingDefault(tier: TierStatus, name: string): number | null {
  const value = valueAt(tier.settings, "sampling", name);
  return typeof value === "number" ? value : null;
}
