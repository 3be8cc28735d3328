// The windows of one browser that show the status share one stream: browsers open few connections to
// a service, and the chat needs them.

/** Events come each second. */
const LATELY_MS = 2500;

interface Said {
  readonly window: number;
  /** undefined: the window has stopped following. */
  readonly news?: unknown;
}

/** Of those with the same key. Whoever follows passes on what comes; of two who do, the one that
 * opened first goes on. */
export class OtherWindows {
  readonly #channel: BroadcastChannel | null;
  /** When it opened, in milliseconds; no two are the same. */
  readonly #window = performance.timeOrigin + performance.now() + Math.random() / 1000;
  #heard = 0;
  #heard_ms = -Infinity;
  /** Called while this window follows and hears that an earlier one does too. */
  onEarlier: (() => void) | null = null;

  constructor(key: string, onNews: (news: unknown) => void) {
    this.#channel =
      typeof BroadcastChannel === "undefined"
        ? null
        : new BroadcastChannel(`tierserve.status ${key}`);
    if (!this.#channel) return;
    this.#channel.onmessage = ({ data }: MessageEvent<Said>) => {
      if (data.news === undefined) {
        if (data.window === this.#heard) this.#heard_ms = -Infinity;
        return;
      }
      this.#heard = data.window;
      this.#heard_ms = Date.now();
      onNews(data.news);
      if (data.window < this.#window) this.onEarlier?.();
    };
  }

  heardLately(): boolean {
    return Date.now() - this.#heard_ms < LATELY_MS;
  }

  say(news: unknown): void {
    this.#channel?.postMessage({ window: this.#window, news } satisfies Said);
  }

  leave(): void {
    this.#channel?.postMessage({ window: this.#window } satisfies Said);
  }

  close(): void {
    this.#channel?.close();
  }
}
