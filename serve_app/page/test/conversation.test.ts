import assert from "node:assert/strict";
import { test } from "node:test";
import {
  afterReload,
  canContinue,
  isJson,
  matches,
  newAnswer,
  newConversation,
  newQuestion,
  resumed,
  titleOf,
  turnsBefore,
  withoutTurn,
  type Answer,
  type Conversation,
} from "../src/chat/conversation.ts";
import { MemoryDrive } from "../src/chat/drive.ts";
import { shownFigures } from "../src/chat/progress.ts";
import { ConversationStore } from "../src/chat/store.ts";
import { ImportError, imported } from "../src/chat/transfer.ts";
import type { CompletionBody } from "../src/service/completion.ts";

function answered(text: string, changed: Partial<Answer> = {}): Answer {
  return { ...newAnswer("chat", 5), text, state: "done", finish: "stop", ...changed };
}

function about(...texts: readonly string[]): Conversation {
  const turns = texts.flatMap((text) => [newQuestion(text), answered(`About ${text}.`)]);
  return { ...newConversation("chat", 5), turns };
}

async function aStore(...kept: readonly Conversation[]): Promise<ConversationStore> {
  const drive = new MemoryDrive();
  for (const conversation of kept) await drive.put(conversation);
  const store = new ConversationStore(drive);
  await store.load();
  return store;
}

test("a conversation is called by its first question until it is renamed", () => {
  assert.equal(titleOf(newConversation("chat", 1), "new"), "new");
  assert.equal(titleOf(about("  How many\n apples? "), "new"), "How many apples?");
  assert.equal([...titleOf(about("好".repeat(200)), "new")].length, 61);
  assert.equal(titleOf({ ...about("x"), title: "Fruit" }, "new"), "Fruit");
});

test("deleting a question takes its answer with it, deleting an answer leaves its question", () => {
  const { turns } = about("a", "b");
  const [first, , second, last] = turns;
  assert.ok(first && second && last);
  assert.deepEqual(withoutTurn(turns, first.id), [second, last]);
  assert.deepEqual(withoutTurn(turns, last.id).length, 3);
  assert.deepEqual(withoutTurn(turns, "none"), turns);
  assert.deepEqual(turnsBefore(turns, second.id).length, 2);
});

test("a search finds all of its words, in whatever order and turn", () => {
  const conversation = about("red apples", "blue pears");
  assert.ok(matches(conversation, "PEARS apples"));
  assert.ok(matches(conversation, ""));
  assert.ok(!matches(conversation, "apples plums"));
});

test("an answer can go on where it has a beginning and did not come to its end", () => {
  assert.ok(canContinue(answered("It", { state: "broken" })));
  assert.ok(canContinue(answered("It", { state: "stopped" })));
  assert.ok(canContinue(answered("It", { finish: "length" })));
  assert.ok(!canContinue(answered("It")));
  assert.ok(!canContinue(answered(" ", { state: "broken" })));
  assert.ok(!canContinue(answered("It", { state: "answering" })));
});

test("an answer whose page was closed keeps what had come", () => {
  const streaming = answered("It is", { state: "answering" });
  const waiting = answered("", { state: "queued", ahead: 3 });
  const { turns } = afterReload({ ...about(), turns: [streaming, waiting] });
  assert.deepEqual(
    turns.map((turn) => turn.role === "assistant" && turn.state),
    ["broken", "stopped"],
  );
  assert.deepEqual(
    turns.map((turn) => turn.role === "assistant" && turn.figures.ended_ms),
    [5, 5],
  );
});

test("what goes on later is not slower for the time that it rested", () => {
  const { figures } = answered("It is");
  const begun = { ...figures, asked_ms: 1000, firstToken_ms: 1500, answerTokens: 11 };
  const rested = resumed({ ...begun, ended_ms: 2500 }, 60_000);
  assert.deepEqual(shownFigures({ ...rested, ended_ms: 61_000 }, 0), {
    firstToken_s: 0.5,
    reasoning_s: null,
    total_s: 2.5,
    tokens: 11,
    tokensPerS: 5,
  });
});

test("an answer that was to be JSON is not read as Markdown", () => {
  const body = { response_format: {} } as unknown as CompletionBody;
  assert.ok(isJson(answered('{"a": "*x*"', { body })));
  assert.ok(!isJson(answered('{"a": 1}', { body: {} as unknown as CompletionBody })));
  assert.ok(isJson(answered('{"a": 1}')));
  assert.ok(!isJson(answered("4")));
});

test("the newest conversation is the first, and each change is kept on the drive", async () => {
  const old = { ...about("old"), updated_ms: 1 };
  const recent = { ...about("new"), updated_ms: 2 };
  const store = await aStore(old, recent);
  assert.deepEqual(
    store.all.value.map(({ id }) => id),
    [recent.id, old.id],
  );
  await store.put({ ...old, updated_ms: 3, title: "Old" });
  assert.deepEqual(
    store.all.value.map(({ title }) => title),
    ["Old", ""],
  );
  store.search.value = "new";
  assert.deepEqual(
    store.found.value.map(({ id }) => id),
    [recent.id],
  );
  await store.remove(recent.id);
  await store.change(recent.id, (gone) => ({ ...gone, title: "back?" }));
  assert.deepEqual(
    store.all.value.map(({ id }) => id),
    [old.id],
  );
  await store.clear();
  assert.deepEqual(store.all.value, []);
});

test("what is exported can be imported, and is the same", async () => {
  const store = await aStore(about("a", "b"), { ...about("c"), title: "C", system: "Be brief." });
  const other = await aStore();
  assert.equal(await other.import(store.exported(0)), 2);
  const texts = (from: ConversationStore) =>
    from.all.value.map(({ id, title, system, turns }) => [
      id,
      title,
      system,
      turns.map((turn) => [turn.role, turn.id, turn.text]),
    ]);
  assert.deepEqual(new Set(texts(other).map(String)), new Set(texts(store).map(String)));
  assert.equal(await other.import(store.exported(0)), 2);
  assert.equal(other.all.value.length, 2);
});

test("a file that is none of ours is refused, and odd values in one become harmless", () => {
  for (const text of ["", "[]", "{}", '{"format":"tierserve.conversations","version":2}']) {
    assert.throws(() => imported(text), ImportError);
  }
  const odd = {
    format: "tierserve.conversations",
    version: 1,
    conversations: [
      null,
      3,
      {
        turns: [
          4,
          { role: "assistant", text: 7, state: "answering", figures: { answerTokens: "many" } },
        ],
      },
    ],
  };
  const [only, ...others] = imported(JSON.stringify(odd));
  assert.equal(others.length, 0);
  const [turn] = only?.turns ?? [];
  assert.ok(turn?.role === "assistant");
  assert.deepEqual([turn.text, turn.state, turn.figures.answerTokens], ["", "stopped", 0]);
});

test("turns of one id in a file each get their own, and a name is as long as a line", () => {
  const turns = [1, 2, 3].map(() => ({ id: "one", role: "user", text: "x" }));
  const file = { format: "tierserve.conversations", version: 1 };
  const [only] = imported(
    JSON.stringify({ ...file, conversations: [{ title: "long ".repeat(1e6), turns }] }),
  );
  assert.equal(new Set(only?.turns.map(({ id }) => id)).size, 3);
  assert.equal([...titleOf(only as Conversation, "new")].length, 201);
});
