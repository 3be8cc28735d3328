// The answers that are being streamed: each runs until its end, whatever is on the screen.
import { signal, type Signal } from "@preact/signals";
import { ServiceError } from "../service/client.ts";
import { now_ms as clock_ms } from "../service/now.ts";
import { streamCompletion, type CompletionBody } from "../service/completion.ts";
import type { Answer, Figures } from "./conversation.ts";
import { afterEvent, ended } from "./progress.ts";

/** Statuses after which the service asks to be asked again. */
const RETRIED: ReadonlySet<number> = new Set([429, 503]);
const HIDDEN_FRAME_MS = 500;
const FRAME_MS = 16;
/** Drawing takes a quarter of the time at most. */
const REST_FOR_DRAWING = 3;
/** For longer, as for the rest of a day, nobody waits with a question. */
const LONGEST_WAIT_S = 600;
/** Refusals of a tier that is full; of any other one, as of a key's quota, the service says why. */
const FULL: ReadonlySet<string | null> = new Set(["queue_full", "wait_too_long"]);

export interface Run {
  /** Changes at most once for each frame of the screen. */
  readonly answer: Signal<Answer>;
  stop(): void;
  readonly done: Promise<Answer>;
}

export interface RunOptions {
  /** The figures of the part that the stream goes on from. */
  readonly before?: Figures;
  readonly now_ms?: () => number;
  readonly onFrame?: (answer: Answer) => void;
}

export function startRun(begun: Answer, body: CompletionBody, options: RunOptions = {}): Run {
  const abort = new AbortController();
  const shown = signal(begun);
  const frames = new Frames((answer) => {
    shown.value = answer;
    options.onFrame?.(answer);
  });
  const done = runToEnd({ ...begun, body }, body, abort.signal, frames, options);
  return { answer: shown, stop: () => abort.abort(), done };
}

async function runToEnd(
  begun: Answer,
  body: CompletionBody,
  signal: AbortSignal,
  frames: Frames,
  options: RunOptions,
): Promise<Answer> {
  const now_ms = options.now_ms ?? clock_ms;
  let answer = begun;
  const show = (next: Answer): void => {
    answer = next;
    frames.show(next);
  };
  for (;;) {
    try {
      for await (const event of streamCompletion(body, signal)) {
        show(afterEvent(answer, event, now_ms(), options.before ?? null));
      }
      // Without a last event the connection ended before the answer did.
      const state = answer.state === "done" || answer.finish !== null ? "done" : broken(answer);
      if (answer.state !== "done") show(ended(answer, state, now_ms()));
    } catch (error) {
      // Asking again would write behind what has come.
      const nothingCame = answer.text === begun.text && answer.reasoning === begun.reasoning;
      const wait_s = signal.aborted || !nothingCame ? null : retryWait(error);
      if (wait_s !== null) {
        const retryAt_ms = now_ms() + wait_s * 1000;
        show({ ...answer, state: "refused", ahead: null, retryAt_ms, error: refusalOf(error) });
        await pause(wait_s * 1000, signal);
        if (!signal.aborted) {
          show({ ...answer, state: "sent", retryAt_ms: null, error: null });
          continue;
        }
      }
      show(afterFailure(answer, error, signal, now_ms()));
    }
    frames.flush();
    return answer;
  }
}

function afterFailure(answer: Answer, error: unknown, signal: AbortSignal, now_ms: number): Answer {
  if (signal.aborted) return ended(answer, "stopped", now_ms);
  const message = error instanceof ServiceError ? error.message : null;
  return ended(answer, broken(answer), now_ms, message);
}

function broken(answer: Answer): "broken" | "failed" {
  return answer.text || answer.reasoning ? "broken" : "failed";
}

function retryWait(error: unknown): number | null {
  if (!(error instanceof ServiceError) || !RETRIED.has(error.status)) return null;
  const { retryAfter_s } = error;
  return retryAfter_s === null || retryAfter_s > LONGEST_WAIT_S ? null : retryAfter_s;
}

function refusalOf(error: unknown): string | null {
  return error instanceof ServiceError && !FULL.has(error.code) ? error.message : null;
}

function pause(duration_ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, duration_ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** Shows the newest of many values once for each frame, and now and then where nothing is drawn. A
 * long table or list is drawn whole at each change: less often, so that the page stays quick. */
class Frames {
  #newest: Answer | null = null;
  #scheduled = false;
  #rest_ms = 0;
  readonly #draw: (answer: Answer) => void;

  constructor(draw: (answer: Answer) => void) {
    this.#draw = draw;
  }

  show(answer: Answer): void {
    this.#newest = answer;
    if (this.#scheduled) return;
    this.#scheduled = true;
    if (typeof document === "undefined" || document.hidden) {
      setTimeout(() => this.flush(), HIDDEN_FRAME_MS);
    } else if (this.#rest_ms > FRAME_MS) {
      setTimeout(() => requestAnimationFrame(() => this.flush()), this.#rest_ms);
    } else {
      requestAnimationFrame(() => this.flush());
    }
  }

  flush(): void {
    this.#scheduled = false;
    const newest = this.#newest;
    this.#newest = null;
    if (!newest) return;
    const began_ms = performance.now();
    this.#draw(newest);
    // What depends on the signal is drawn before the next task.
    setTimeout(() => {
      this.#rest_ms = (performance.now() - began_ms) * REST_FOR_DRAWING;
    });
  }
}
