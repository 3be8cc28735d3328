// Where conversations are kept: the browser's IndexedDB, and nowhere else.
import type { Conversation } from "./conversation.ts";

export interface ConversationDrive {
  all(): Promise<readonly Conversation[]>;
  put(conversation: Conversation): Promise<void>;
  putAll(conversations: readonly Conversation[]): Promise<void>;
  remove(id: string): Promise<void>;
  clear(): Promise<void>;
}

const DATABASE = "tierserve";
const STORE = "conversations";

/** The browser's database, or memory where it has none, as in a private window of some. */
export async function openDrive(): Promise<ConversationDrive> {
  try {
    return new DatabaseDrive(await opened());
  } catch {
    return new MemoryDrive();
  }
}

class DatabaseDrive implements ConversationDrive {
  readonly #database: IDBDatabase;

  constructor(database: IDBDatabase) {
    this.#database = database;
  }

  async all(): Promise<readonly Conversation[]> {
    return settled(this.#store("readonly").getAll() as IDBRequest<Conversation[]>);
  }

  async put(conversation: Conversation): Promise<void> {
    await settled(this.#store("readwrite").put(conversation));
  }

  async putAll(conversations: readonly Conversation[]): Promise<void> {
    const store = this.#store("readwrite");
    await Promise.all(conversations.map((each) => settled(store.put(each))));
  }

  async remove(id: string): Promise<void> {
    await settled(this.#store("readwrite").delete(id));
  }

  async clear(): Promise<void> {
    await settled(this.#store("readwrite").clear());
  }

  #store(mode: IDBTransactionMode): IDBObjectStore {
    return this.#database.transaction(STORE, mode).objectStore(STORE);
  }
}

export class MemoryDrive implements ConversationDrive {
  readonly #kept = new Map<string, Conversation>();

  async all(): Promise<readonly Conversation[]> {
    return [...this.#kept.values()];
  }

  async put(conversation: Conversation): Promise<void> {
    this.#kept.set(conversation.id, conversation);
  }

  async putAll(conversations: readonly Conversation[]): Promise<void> {
    for (const each of conversations) this.#kept.set(each.id, each);
  }

  async remove(id: string): Promise<void> {
    this.#kept.delete(id);
  }

  async clear(): Promise<void> {
    this.#kept.clear();
  }
}

function opened(): Promise<IDBDatabase> {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore(STORE, { keyPath: "id" });
  };
  return settled(request);
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the database refused"));
  });
}
