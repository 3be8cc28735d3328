// All conversations of this browser, newest first, each change written to the drive.
import { computed, signal } from "@preact/signals";
import { afterReload, hasEnded, matches, type Conversation } from "./conversation.ts";
import type { ConversationChange, ConversationDrive } from "./drive.ts";
import { exported, imported } from "./transfer.ts";
import type { ChangedIds, ConversationNews } from "./windows.ts";

/** A window that streams an answer says so each second, and while it waits with each heartbeat. One
 * that is silent for so long was closed. */
const SILENT_MS = 30_000;

export class ConversationStore {
  readonly #drive: ConversationDrive;
  readonly #news: ConversationNews | undefined;
  /** Written in vain. */
  readonly #unsaved = new Set<string>();
  readonly #expected = new Map<string, ReturnType<typeof setTimeout>>();
  readonly all = signal<readonly Conversation[]>([]);
  /** Whether the browser keeps no more, as with a full disk or in a private window of some: what is
   * here then ends with the page. */
  readonly unsaved = signal(false);
  readonly search = signal("");
  readonly found = computed(() =>
    this.all.value.filter((conversation) => matches(conversation, this.search.value)),
  );

  constructor(drive: ConversationDrive, news?: ConversationNews) {
    this.#drive = drive;
    this.#news = news;
    this.unsaved.value = !drive.lasting;
    if (news) news.onNews = (ids) => void this.#hear(ids);
  }

  async load(): Promise<void> {
    this.#show((await this.#drive.all()).map(afterReload));
  }

  get(id: string): Conversation | undefined {
    return this.all.value.find((conversation) => conversation.id === id);
  }

  /** Adds it, or puts it in the place of the one with its id. */
  async put(conversation: Conversation): Promise<void> {
    this.#replace(conversation);
    await this.#write([conversation.id], () => this.#drive.put(conversation));
  }

  /** Changes one that is there; nothing happens where it was deleted meanwhile. */
  async change(id: string, change: ConversationChange): Promise<void> {
    const conversation = this.get(id);
    if (!conversation) return;
    const changed = change(conversation);
    this.#replace(changed);
    // What could not be written before is not in the drive, or not as it is here.
    await this.#write([id], () =>
      this.#unsaved.has(id) ? this.#drive.put(changed) : this.#drive.change(id, change),
    );
  }

  async remove(id: string): Promise<void> {
    this.all.value = this.all.value.filter((each) => each.id !== id);
    await this.#write([id], () => this.#drive.remove(id));
    // There may be room now.
    for (const each of this.all.value) if (this.#unsaved.has(each.id)) await this.put(each);
  }

  async clear(): Promise<void> {
    this.all.value = [];
    await this.#write(null, () => this.#drive.clear());
  }

  exported(now_ms: number): string {
    return exported(this.all.value, now_ms);
  }

  /** How many were added; those of the same id are replaced. Throws ImportError. */
  async import(text: string): Promise<number> {
    const conversations = new Map(imported(text).map((each) => [each.id, each]));
    const others = this.all.value.filter((each) => !conversations.has(each.id));
    this.#show([...conversations.values(), ...others]);
    await this.#write([...conversations.keys()], () =>
      this.#drive.putAll([...conversations.values()]),
    );
    return conversations.size;
  }

  #show(conversations: readonly Conversation[]): void {
    this.all.value = conversations.toSorted((a, b) => b.updated_ms - a.updated_ms);
  }

  #replace(conversation: Conversation): void {
    const others = this.all.value.filter((each) => each.id !== conversation.id);
    this.#show([conversation, ...others]);
  }

  async #write(ids: ChangedIds, write: () => Promise<void>): Promise<void> {
    try {
      await write();
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      for (const id of ids ?? []) this.#unsaved.add(id);
      this.unsaved.value = true;
      return;
    }
    if (ids === null) this.#unsaved.clear();
    for (const id of ids ?? []) this.#unsaved.delete(id);
    this.unsaved.value = !this.#drive.lasting || this.#unsaved.size > 0;
    this.#news?.say(ids);
  }

  /** Another window has changed these. */
  async #hear(ids: ChangedIds): Promise<void> {
    if (ids === null) {
      this.all.value = [];
      return;
    }
    const found = await Promise.all(ids.map((id) => this.#newest(id)));
    const kept = found.filter((each) => each !== undefined);
    const changed = new Set(ids);
    this.#show([...kept, ...this.all.value.filter((each) => !changed.has(each.id))]);
    for (const id of ids) clearTimeout(this.#expected.get(id));
    for (const { id, turns } of kept) {
      if (turns.every((turn) => turn.role === "user" || hasEnded(turn))) continue;
      this.#expected.set(
        id,
        setTimeout(() => this.#giveUp(id), SILENT_MS),
      );
    }
  }

  /** As it is on the drive, with what this window has changed meanwhile. */
  async #newest(id: string): Promise<Conversation | undefined> {
    for (;;) {
      const before = this.get(id);
      const kept = await this.#drive.get(id);
      if (this.get(id) === before) return kept;
    }
  }

  #giveUp(id: string): void {
    this.all.value = this.all.value.map((each) => (each.id === id ? afterReload(each) : each));
  }
}
