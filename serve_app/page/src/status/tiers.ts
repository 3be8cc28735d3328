// `/api/tiers`: how each tier is now, for those who may see it.
import { isObject, listAt, numberAt, textAt, objectAt, type JsonObject } from "../service/json.ts";

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
