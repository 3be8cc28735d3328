import assert from "node:assert/strict";
import { test } from "node:test";
import { EventReader, requestsAhead, type StreamItem } from "../src/service/sse.ts";

const STREAM =
  ': waiting, 2 ahead\n\ndata: {"a":"é 好"}\n\nevent: x\ndata: one\ndata: two\r\n\r\n: ok\n\ndata: [DONE]\n\n';
const ITEMS: readonly StreamItem[] = [
  { kind: "comment", text: "waiting, 2 ahead" },
  { kind: "data", data: '{"a":"é 好"}' },
  { kind: "data", data: "one\ntwo" },
  { kind: "comment", text: "ok" },
  { kind: "data", data: "[DONE]" },
];

test("a stream means the same however it is cut", () => {
  for (let size = 1; size <= STREAM.length; size += 1) {
    const reader = new EventReader();
    const items: StreamItem[] = [];
    for (let at = 0; at < STREAM.length; at += size) {
      items.push(...reader.push(STREAM.slice(at, at + size)));
    }
    assert.deepEqual(items, ITEMS, `cut at each ${size}`);
  }
});

test("an event that has not ended is none yet", () => {
  const reader = new EventReader();
  assert.deepEqual(reader.push("data: half"), []);
  assert.deepEqual(reader.push(" and half\n"), []);
  assert.deepEqual(reader.push("\n"), [{ kind: "data", data: "half and half" }]);
});

test("the place in the queue is read from heartbeats alone", () => {
  assert.equal(requestsAhead("waiting, 0 ahead"), 0);
  assert.equal(requestsAhead("waiting, 17 ahead"), 17);
  assert.equal(requestsAhead("waiting for a replica"), null);
  assert.equal(requestsAhead("keep-alive"), undefined);
});
