import assert from "node:assert/strict";
import { test } from "node:test";
import { newAnswer, type Answer } from "../src/chat/conversation.ts";
import { afterEvent, ended, shownFigures } from "../src/chat/progress.ts";
import type { StreamEvent } from "../src/service/completion.ts";

function delta(fields: object, finish: string | null = null): StreamEvent {
  return {
    kind: "chunk",
    chunk: { choices: [{ index: 0, delta: fields, finish_reason: finish }] },
  };
}

function usage(completion: number, reasoning: number, prompt = 9): StreamEvent {
  const details = { reasoning_tokens: reasoning };
  const usage = {
    prompt_tokens: prompt,
    completion_tokens: completion,
    completion_tokens_details: details,
  };
  return { kind: "chunk", chunk: { choices: [], usage } };
}

function after(
  events: readonly (readonly [number, StreamEvent])[],
  before: Answer = newAnswer("reasoning", 0),
): Answer {
  return events.reduce((answer, [at_ms, event]) => afterEvent(answer, event, at_ms), before);
}

const CUT: StreamEvent = {
  kind: "chunk",
  chunk: {
    choices: [{ index: 0, delta: {}, finish_reason: "stop" }],
    tierserve: { thoughts: [{ index: 0, end: "cut", tokens: 2 }] },
  },
};

test("reasoning and answer have clocks and counts of their own", () => {
  const answer = after([
    [100, { kind: "waiting", ahead: 2 }],
    [1000, delta({ reasoning: "Hm", reasoning_content: "Hm" })],
    [2000, delta({ reasoning: ".", reasoning_content: "." })],
    [3000, delta({ content: "It is" })],
    [4000, delta({ content: " 4." })],
    [4100, CUT],
    [4100, usage(5, 2)],
    [5000, { kind: "end" }],
  ]);
  assert.equal(answer.reasoning, "Hm.");
  assert.equal(answer.text, "It is 4.");
  assert.deepEqual(
    [answer.state, answer.end, answer.finish, answer.ahead],
    ["done", "cut", "stop", null],
  );
  assert.deepEqual(
    [answer.figures.reasoningTokens, answer.figures.answerTokens, answer.figures.exact],
    [2, 3, true],
  );
  const shown = shownFigures(answer.figures, 99_000);
  assert.deepEqual(
    [shown.firstToken_s, shown.reasoning_s, shown.total_s, shown.tokens],
    [1, 2, 5, 5],
  );
  assert.equal(shown.tokensPerS, 1);
});

test("while it waits it says how many are ahead, and a first token ends that", () => {
  const waiting = after([[1, { kind: "waiting", ahead: 3 }]]);
  assert.deepEqual([waiting.state, waiting.ahead], ["queued", 3]);
  const reasoning = after([[2, delta({ reasoning: "a" })]], waiting);
  assert.deepEqual([reasoning.state, reasoning.ahead], ["reasoning", null]);
});

test("before the service has counted, figures are not called exact", () => {
  const answer = after([
    [1, delta({ content: "a" })],
    [2, delta({ content: "b" })],
  ]);
  assert.deepEqual([answer.figures.exact, answer.figures.answerTokens], [false, 2]);
});

test("what goes on from an answer adds to its figures and keeps how its reasoning ended", () => {
  const first = ended(
    after([
      [1, delta({ reasoning: "a" })],
      [2, delta({ content: "b" })],
      [3, CUT],
      [3, usage(2, 1)],
    ]),
    "done",
    3,
  );
  const off: StreamEvent = {
    kind: "chunk",
    chunk: { choices: [], tierserve: { thoughts: [{ index: 0, end: "off", tokens: 0 }] } },
  };
  let answer: Answer = { ...first, state: "sent" };
  for (const event of [delta({ content: " c" }), off, usage(4, 0, 11)])
    answer = afterEvent(answer, event, 9, first.figures);
  assert.equal(answer.text, "b c");
  assert.equal(answer.end, "cut");
  assert.deepEqual(
    [answer.figures.reasoningTokens, answer.figures.answerTokens, answer.figures.promptTokens],
    [1, 5, 9],
  );
});

test("an answer that repeated itself says so", () => {
  const chunk = {
    choices: [{ index: 0, delta: {}, finish_reason: "stop" }],
    tierserve: { finish_reasons: { "0": "repetition" } },
  };
  assert.equal(after([[1, { kind: "chunk", chunk }]]).finish, "repetition");
});

test("what is no chunk changes nothing", () => {
  const answer = newAnswer("chat", 0);
  for (const chunk of [
    null,
    3,
    "x",
    [],
    { choices: "no" },
    { choices: [null] },
    { usage: {} },
    { choices: [{ delta: { content: 4 } }] },
  ]) {
    assert.deepEqual(afterEvent(answer, { kind: "chunk", chunk }, 1), answer);
  }
});

test("an answer that another replica went on with says so, and how often", () => {
  const last = (replayed: number): StreamEvent => ({
    kind: "chunk",
    chunk: { choices: [{ index: 0, delta: {}, finish_reason: "stop" }], tierserve: { replayed } },
  });
  assert.equal(after([[100, delta({ content: "It" })]]).replayed, undefined);
  const answer = after([
    [100, delta({ content: "It is 4." })],
    [200, last(2)],
  ]);
  assert.equal(answer.replayed, 2);
  assert.equal(after([[300, last(1)]], answer).replayed, 3);
});
