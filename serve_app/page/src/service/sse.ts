// Server-sent events as the service writes them: data, and comments such as ": waiting, 2 ahead".

export type StreamItem =
  | { readonly kind: "data"; readonly data: string }
  | { readonly kind: "comment"; readonly text: string };

/** Takes a stream's text in whatever pieces it comes, and gives its events and comments. */
export class EventReader {
  #rest = "";
  #data: string[] = [];

  push(piece: string): StreamItem[] {
    const items: StreamItem[] = [];
    // A CR at the end may be half of a CRLF.
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?=.)/s);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#take(line, items);
    return items;
  }

  #take(line: string, items: StreamItem[]): void {
    if (line === "") {
      if (this.#data.length > 0) items.push({ kind: "data", data: this.#data.join("\n") });
      this.#data = [];
    } else if (line.startsWith(":")) {
      items.push({ kind: "comment", text: line.slice(1).trim() });
    } else if (line.startsWith("data:")) {
      this.#data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}

const WAITING = /^waiting(?:, (\d+) ahead| for a replica)$/;

/** What a heartbeat reports: the requests ahead in the queue, or null while no replica runs that
 * could have one; undefined: the comment is no heartbeat. */
export function requestsAhead(comment: string): number | null | undefined {
  const found = WAITING.exec(comment);
  if (found === null) return undefined;
  return found[1] === undefined ? null : Number(found[1]);
}

/** The items of an answer's stream, until it ends. Throws TypeError where it breaks. */
export async function* itemsOf(
  response: Response,
  signal: AbortSignal,
): AsyncGenerator<StreamItem> {
  if (response.body === null) return;
  const reader = new EventReader();
  const pieces = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await pieces.read();
      if (done) return;
      yield* reader.push(value);
    }
  } finally {
    if (!signal.aborted) void pieces.cancel().catch(() => undefined);
  }
}
