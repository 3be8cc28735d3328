// What one window of this browser changes in the conversations, the others see too.

/** Conversations that were written or deleted; null: all of them. */
export type ChangedIds = readonly string[] | null;

export interface ConversationNews {
  say(ids: ChangedIds): void;
  onNews: ((ids: ChangedIds) => void) | null;
}

/** Between the windows of one browser; undefined where it has no channel for it. */
export function openNews(): ConversationNews | undefined {
  if (typeof BroadcastChannel === "undefined") return undefined;
  const channel = new BroadcastChannel("tierserve.conversations");
  const news: ConversationNews = { say: (ids) => channel.postMessage(ids), onNews: null };
  channel.onmessage = ({ data }: MessageEvent<ChangedIds>) => news.onNews?.(data);
  return news;
}
