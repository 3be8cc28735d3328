// `/api/history`: how each tier was every few seconds of the last hour.
import { getQuietly } from "../service/client.ts";
import { isObject, listAt, numberAt, objectAt, type JsonObject } from "../service/json.ts";

const KEPT_S = 3600;
/** A sample is taken every five seconds, or a little later. */
const GAP_S = 9;

/** null is what nobody knew, or what no request had. */
export interface TierSample {
  readonly replicas: number | null;
  readonly running: number | null;
  readonly slots: number | null;
  readonly queueDepth: number | null;
  readonly tokensPerS: number | null;
  readonly ttftP50_s: number | null;
  readonly ttftP95_s: number | null;
  readonly waitP50_s: number | null;
  readonly waitP95_s: number | null;
  readonly refused: number | null;
}

export interface StatusSample {
  readonly at_s: number;
  readonly tiers: Readonly<Record<string, TierSample>>;
}

export async function fetchHistory(
  since_s: number,
  signal: AbortSignal,
): Promise<readonly StatusSample[]> {
  return readHistory(await getQuietly(`/api/history?since=${since_s}`, signal));
}

export function readHistory(body: unknown): readonly StatusSample[] {
  return listAt(body, "samples")
    .filter(isObject)
    .map((sample) => ({
      at_s: numberAt(sample, "at_s") ?? 0,
      tiers: Object.fromEntries(
        Object.entries(objectAt(sample, "tiers"))
          .filter((entry): entry is [string, JsonObject] => isObject(entry[1]))
          .map(([tier, figures]) => [tier, readTierSample(figures)]),
      ),
    }));
}

function readTierSample(figures: JsonObject): TierSample {
  return {
    replicas: numberAt(figures, "replicas"),
    running: numberAt(figures, "running"),
    slots: numberAt(figures, "slots"),
    queueDepth: numberAt(figures, "queue_depth"),
    tokensPerS: numberAt(figures, "output_tokens_per_s"),
    ttftP50_s: numberAt(figures, "ttft_p50_s"),
    ttftP95_s: numberAt(figures, "ttft_p95_s"),
    waitP50_s: numberAt(figures, "queue_wait_p50_s"),
    waitP95_s: numberAt(figures, "queue_wait_p95_s"),
    refused: numberAt(figures, "refused"),
  };
}

/** The samples with newer ones behind them, and without those that are older than an hour. */
export function extended(
  samples: readonly StatusSample[],
  newer: readonly StatusSample[],
): readonly StatusSample[] {
  const last_s = samples.at(-1)?.at_s ?? 0;
  const all = [...samples, ...newer.filter((sample) => sample.at_s > last_s)];
  const until_s = all.at(-1)?.at_s ?? 0;
  return all.filter((sample) => sample.at_s > until_s - KEPT_S);
}

/** Whether nothing is missing between the samples and newer ones; so too where none are newer. */
export function followsOn(
  samples: readonly StatusSample[],
  newer: readonly StatusSample[],
): boolean {
  const last = samples.at(-1);
  const first = newer[0];
  if (last === undefined) return false;
  return first === undefined || first.at_s - last.at_s < GAP_S;
}
