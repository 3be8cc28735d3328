// All conversations of this browser, newest first, each change written to the drive.
import { computed, signal } from "@preact/signals";
import { afterReload, matches, type Conversation } from "./conversation.ts";
import type { ConversationDrive } from "./drive.ts";
import { exported, imported } from "./transfer.ts";

export class ConversationStore {
  readonly #drive: ConversationDrive;
  readonly all = signal<readonly Conversation[]>([]);
  readonly search = signal("");
  readonly found = computed(() =>
    this.all.value.filter((conversation) => matches(conversation, this.search.value)),
  );

  constructor(drive: ConversationDrive) {
    this.#drive = drive;
  }

  async load(): Promise<void> {
    const kept = (await this.#drive.all()).map(afterReload);
    this.all.value = kept.toSorted((a, b) => b.updated_ms - a.updated_ms);
  }

  get(id: string): Conversation | undefined {
    return this.all.value.find((conversation) => conversation.id === id);
  }

  /** Adds it, or puts it in the place of the one with its id. */
  async put(conversation: Conversation): Promise<void> {
    const others = this.all.value.filter((each) => each.id !== conversation.id);
    this.all.value = [conversation, ...others].toSorted((a, b) => b.updated_ms - a.updated_ms);
    await this.#drive.put(conversation);
  }

  /** Changes one that is there; nothing happens where it was deleted meanwhile. */
  async change(id: string, change: (conversation: Conversation) => Conversation): Promise<void> {
    const conversation = this.get(id);
    if (conversation) await this.put(change(conversation));
  }

  async remove(id: string): Promise<void> {
    this.all.value = this.all.value.filter((each) => each.id !== id);
    await this.#drive.remove(id);
  }

  async clear(): Promise<void> {
    this.all.value = [];
    await this.#drive.clear();
  }

  exported(now_ms: number): string {
    return exported(this.all.value, now_ms);
  }

  /** How many were added; those of the same id are replaced. Throws ImportError. */
  async import(text: string): Promise<number> {
    const conversations = new Map(imported(text).map((each) => [each.id, each]));
    const others = this.all.value.filter((each) => !conversations.has(each.id));
    this.all.value = [...conversations.values(), ...others].toSorted(
      (a, b) => b.updated_ms - a.updated_ms,
    );
    await this.#drive.putAll([...conversations.values()]);
    return conversations.size;
  }
}
