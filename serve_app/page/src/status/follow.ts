// Follows the status while it is looked at, and not otherwise.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { sendQuietly, ServiceError } from "../service/client.ts";
import { parsed } from "../service/json.ts";
import { key } from "../service/key.ts";
import { now_ms } from "../service/now.ts";
import { itemsOf } from "../service/sse.ts";
import { extended, fetchHistory, followsOn, readHistory, type StatusSample } from "./history.ts";
import { readTiers, type TierStatus } from "./tiers.ts";
import { fetchUsage, type KeyUsage } from "./usage.ts";
import { OtherWindows } from "./windows.ts";

/** Events come each second; a stream that is silent for so long is dead. */
const SILENT_MS = 8000;
const AGAIN_MS = 1000;
const REFUSED_MS = 10_000;
/** Usage is counted by the day. */
const USAGE_EVERY_MS = 30_000;

export const tiers = signal<readonly TierStatus[] | null>(null);
export const history = signal<readonly StatusSample[]>([]);
export const usage = signal<readonly KeyUsage[] | null>(null);
export const updated_ms = signal<number>(0);
/** Why the status is not to be had: "refused" to this key, "silent" where nothing answers. */
export const trouble = signal<"refused" | "silent" | null>(null);

/** One stream for all windows of this browser, while the page is seen. */
export function useFollowing(): void {
  const from = key.value;
  useEffect(() => {
    const abort = new AbortController();
    void follow(from, abort.signal);
    void followUsage(abort.signal);
    return () => abort.abort();
  }, [from]);
}

async function follow(from: string, ending: AbortSignal): Promise<void> {
  const others = new OtherWindows(from, (news) => void take(news, ending));
  while (!ending.aborted) {
    if (document.hidden || others.heardLately()) await pause(AGAIN_MS, ending);
    else await pause(await stream(others, ending), ending);
  }
  others.close();
}

/** Until the stream ends, in whatever way; how long to wait before the next one. */
async function stream(others: OtherWindows, ending: AbortSignal): Promise<number> {
  const began_ms = now_ms();
  const abort = new AbortController();
  const signal = AbortSignal.any([ending, abort.signal]);
  const onHidden = (): void => (document.hidden ? abort.abort() : undefined);
  document.addEventListener("visibilitychange", onHidden);
  others.onEarlier = () => abort.abort();
  let timer = 0;
  const watch = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => abort.abort(new SilentError()), SILENT_MS);
  };
  try {
    watch();
    const response = await sendQuietly("/api/tiers/events", { signal });
    for await (const item of itemsOf(response, signal)) {
      watch();
      if (item.kind !== "data") continue;
      const news = parsed(item.data);
      others.say(news);
      void take(news, ending);
    }
    // It ends each minute; one that ends at once is not opened again and again.
    return now_ms() - began_ms < AGAIN_MS ? AGAIN_MS : 0;
  } catch (error) {
    if (ending.aborted || (abort.signal.aborted && !isSilent(abort.signal))) return 0;
    trouble.value = isRefusal(error) ? "refused" : "silent";
    return trouble.value === "refused" ? REFUSED_MS : AGAIN_MS;
  } finally {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", onHidden);
    others.onEarlier = null;
    others.leave();
  }
}

class SilentError extends Error {
  override name = "SilentError";
}

function isSilent(signal: AbortSignal): boolean {
  return signal.reason instanceof SilentError;
}

function isRefusal(error: unknown): boolean {
  return error instanceof ServiceError && (error.status === 401 || error.status === 403);
}

/** What has come, in this window or in another one. */
async function take(news: unknown, ending: AbortSignal): Promise<void> {
  if (document.hidden || ending.aborted) return;
  tiers.value = readTiers(news);
  updated_ms.value = now_ms();
  trouble.value = null;
  const newer = readHistory(news);
  if (followsOn(history.value, newer)) history.value = extended(history.value, newer);
  else await fillHistory(ending);
}

let filling = false;

/** What came while nobody looked, and at first the whole hour. */
async function fillHistory(ending: AbortSignal): Promise<void> {
  if (filling) return;
  filling = true;
  try {
    const since_s = history.value.at(-1)?.at_s ?? 0;
    history.value = extended(history.value, await fetchHistory(since_s, ending));
  } catch {
    // The next event asks for it again.
  } finally {
    filling = false;
  }
}

async function followUsage(ending: AbortSignal): Promise<void> {
  while (!ending.aborted) {
    try {
      if (!document.hidden) usage.value = await fetchUsage(ending);
    } catch {
      // What is shown stands.
    }
    await pause(USAGE_EVERY_MS, ending);
  }
}

/** Shorter where the page is looked at again. */
function pause(duration_ms: number, ending: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      ending.removeEventListener("abort", done);
      document.removeEventListener("visibilitychange", done);
      resolve();
    };
    const timer = setTimeout(done, duration_ms);
    ending.addEventListener("abort", done);
    document.addEventListener("visibilitychange", done);
  });
}
