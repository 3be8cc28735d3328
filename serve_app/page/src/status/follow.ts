// Follows the status while it is looked at, and not otherwise.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ServiceError } from "../service/client.ts";
import { extended, fetchHistory, type StatusSample } from "./history.ts";
import { fetchTiers, type TierStatus } from "./tiers.ts";
import { fetchUsage, type KeyUsage } from "./usage.ts";

const EVERY_MS = 1000;
/** Samples come every five seconds, and usage is counted by the day. */
const HISTORY_EVERY = 5;
const USAGE_EVERY = 30;

export const tiers = signal<readonly TierStatus[] | null>(null);
export const history = signal<readonly StatusSample[]>([]);
export const usage = signal<readonly KeyUsage[] | null>(null);
export const updated_ms = signal<number>(0);
/** Why the status is not to be had: "refused" to this key, "silent" where nothing answers. */
export const trouble = signal<"refused" | "silent" | null>(null);

/** Asks once a second, one question at a time, while the page is seen. */
export function useFollowing(): void {
  useEffect(() => {
    const abort = new AbortController();
    void follow(abort.signal);
    return () => abort.abort();
  }, []);
}

async function follow(signal: AbortSignal): Promise<void> {
  for (let turn = 0; !signal.aborted; turn += 1) {
    if (!document.hidden) await ask(turn, signal);
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

async function ask(turn: number, signal: AbortSignal): Promise<void> {
  try {
    tiers.value = await fetchTiers(signal);
    updated_ms.value = Date.now();
    trouble.value = null;
    if (turn % HISTORY_EVERY === 0) {
      const since_s = history.value.at(-1)?.at_s ?? 0;
      history.value = extended(history.value, await fetchHistory(since_s, signal));
    }
    if (turn % USAGE_EVERY === 0) usage.value = await fetchUsage(signal);
  } catch (error) {
    if (signal.aborted) return;
    const refused = error instanceof ServiceError && (error.status === 401 || error.status === 403);
    trouble.value = refused ? "refused" : "silent";
  }
}
