// Where conversations are kept: the browser's IndexedDB, and nowhere else.
import type { Conversation } from "./conversation.ts";

export interface ConversationDrive {
  /** Whether it keeps anything once the page is closed. */
  readonly lasting: boolean;
  all(): Promise<readonly Conversation[]>;
  get(id: string): Promise<Conversation | undefined>;
  put(conversation: Conversation): Promise<void>;
  putAll(conversations: readonly Conversation[]): Promise<void>;
  /** Of what is kept by now, which another window may have changed; nothing where it is deleted. */
  change(id: string, change: ConversationChange): Promise<void>;
  remove(id: string): Promise<void>;
  clear(): Promise<void>;
}

export type ConversationChange = (conversation: Conversation) => Conversation;

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
  readonly lasting = true;
  readonly #database: IDBDatabase;

  constructor(database: IDBDatabase) {
    this.#database = database;
  }

  async all(): Promise<readonly Conversation[]> {
    return settled(this.#reading().getAll() as IDBRequest<Conversation[]>);
  }

  async get(id: string): Promise<Conversation | undefined> {
    return settled(this.#reading().get(id) as IDBRequest<Conversation | undefined>);
  }

  async put(conversation: Conversation): Promise<void> {
    await this.#write((store) => store.put(conversation));
  }

  async putAll(conversations: readonly Conversation[]): Promise<void> {
    await this.#write((store) => conversations.forEach((each) => store.put(each)));
  }

  async change(id: string, change: ConversationChange): Promise<void> {
    await this.#write((store) => {
      const kept = store.get(id) as IDBRequest<Conversation | undefined>;
      kept.onsuccess = () => kept.result && store.put(change(kept.result));
    });
  }

  async remove(id: string): Promise<void> {
    await this.#write((store) => store.delete(id));
  }

  async clear(): Promise<void> {
    await this.#write((store) => store.clear());
  }

  #reading(): IDBObjectStore {
    return this.#database.transaction(STORE, "readonly").objectStore(STORE);
  }

  /** A full disk refuses a transaction as a whole, after each of its requests has succeeded. */
  async #write(work: (store: IDBObjectStore) => unknown): Promise<void> {
    const transaction = this.#database.transaction(STORE, "readwrite");
    const completed = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? refused());
    });
    work(transaction.objectStore(STORE));
    await completed;
  }
}

export class MemoryDrive implements ConversationDrive {
  readonly lasting = false;
  readonly #kept = new Map<string, Conversation>();

  async all(): Promise<readonly Conversation[]> {
    return [...this.#kept.values()];
  }

  async get(id: string): Promise<Conversation | undefined> {
    return this.#kept.get(id);
  }

  async put(conversation: Conversation): Promise<void> {
    this.#kept.set(conversation.id, conversation);
  }

  async putAll(conversations: readonly Conversation[]): Promise<void> {
    for (const each of conversations) this.#kept.set(each.id, each);
  }

  async change(id: string, change: ConversationChange): Promise<void> {
    const kept = this.#kept.get(id);
    if (kept) this.#kept.set(id, change(kept));
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
    request.onerror = () => reject(request.error ?? refused());
  });
}

function refused(): DOMException {
  return new DOMException("the database refused");
}
