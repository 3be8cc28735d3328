import assert from "node:assert/strict";
import { test } from "node:test";
import { extended, followsOn, readHistory, type StatusSample } from "../src/status/history.ts";
import { readTiers } from "../src/status/tiers.ts";
import { OtherWindows } from "../src/status/windows.ts";
import { usageByKey } from "../src/status/usage.ts";
import { chinese } from "../src/words/chinese.ts";
import { english } from "../src/words/english.ts";

function at(...times_s: readonly number[]): readonly StatusSample[] {
  return times_s.map((at_s) => ({ at_s, tiers: {} }));
}

test("newer samples follow older ones once, and what is older than an hour goes", () => {
  const joined = extended(at(100, 105), at(105, 110));
  assert.deepEqual(
    joined.map(({ at_s }) => at_s),
    [100, 105, 110],
  );
  assert.deepEqual(
    extended(joined, at(3706)).map(({ at_s }) => at_s),
    [110, 3706],
  );
});

test("a sample that does not follow the last one shows that some are missing", () => {
  assert.equal(followsOn([], []), false);
  assert.equal(followsOn(at(100), []), true);
  assert.equal(followsOn(at(100), at(105)), true);
  assert.equal(followsOn(at(100), at(100)), true);
  assert.equal(followsOn(at(100), at(110)), false);
});

test("the window that opened first goes on, and another one when it leaves", async (context) => {
  const heard: unknown[] = [];
  const first = new OtherWindows("k", () => undefined);
  const second = new OtherWindows("k", (news) => heard.push(news));
  const elsewhere = new OtherWindows("another key", (news) => heard.push(news));
  context.after(() => [first, second, elsewhere].forEach((each) => each.close()));
  const yielded: string[] = [];
  first.onEarlier = () => yielded.push("first");
  second.onEarlier = () => yielded.push("second");
  first.say({ tiers: [] });
  second.say({ tiers: [] });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual([yielded, heard], [["second"], [{ tiers: [] }]]);
  assert.deepEqual([second.heardLately(), elsewhere.heardLately()], [true, false]);
  first.leave();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(second.heardLately(), false);
});

test("what nobody knows stays unknown", () => {
  const [sample] = readHistory({
    samples: [{ at_s: 5, tiers: { chat: { running: null, slots: 8 } } }],
  });
  assert.deepEqual([sample?.tiers["chat"]?.running, sample?.tiers["chat"]?.slots], [null, 8]);
  const [tier] = readTiers({ tiers: [{ tier: "chat", replicas: [{ replica: "a" }] }] });
  assert.deepEqual([tier?.running, tier?.ready, tier?.replicas[0]?.gpu], [null, false, ""]);
});

test("usage is summed over days, tiers and models", () => {
  const rows = [
    { key: "a", requests: 1, prompt_tokens: 5, answer_tokens: 5 },
    { key: "b", requests: 1, prompt_tokens: 90, answer_tokens: 1, refused: 2, gpu_s: 1.5 },
    { key: "a", requests: 2, prompt_tokens: 5, answer_tokens: 5, reasoning_tokens: 10 },
  ];
  assert.deepEqual(usageByKey({ data: rows }), [
    { key: "b", requests: 1, promptTokens: 90, answerTokens: 1, refused: 2, gpu_s: 1.5 },
    { key: "a", requests: 3, promptTokens: 10, answerTokens: 20, refused: 0, gpu_s: 0 },
  ]);
});

test("both languages fill in the same values", () => {
  const values = (text: string): string =>
    [...text.matchAll(/\{\w+\}/g)].map(String).toSorted().join();
  for (const [name, text] of Object.entries(english)) {
    assert.equal(values(chinese[name as keyof typeof english]), values(text), name);
  }
});
