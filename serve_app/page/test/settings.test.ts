import assert from "node:assert/strict";
import { test } from "node:test";
import { newAnswer, newQuestion } from "../src/chat/conversation.ts";
import {
  limitsOf,
  NO_CHOICES,
  readChoices,
  SchemaTextError,
  withinLimits,
  type TierChoices,
} from "../src/chat/settings.ts";
import { completionBody, continuationBody } from "../src/service/completion.ts";
import { fieldBounds, readOffers, type TierOffer } from "../src/service/offers.ts";
import { asCurl, asPython, python } from "../src/service/snippet.ts";

const MODELS = {
  data: [
    {
      id: "reasoning",
      root: "micro-r1",
      ready: true,
      max_model_len: 4096,
      limits: { tier: "reasoning", max_new_tokens: 2048 },
      defaults: {
        reasons: true,
        sampling: { temperature: 0.6 },
        thinking: { enabled: true, answer_share: 0.25, answer_tokens: null, budget_tokens: null },
        tasks: { math: {}, code: {} },
      },
    },
    { id: "micro-r1", root: "micro-r1", limits: { tier: "reasoning", max_new_tokens: 2048 } },
  ],
};

function anOffer(changed: Partial<TierOffer> = {}): TierOffer {
  const [offer] = readOffers(MODELS);
  assert.ok(offer);
  return { ...offer, ...changed };
}

function sent(choices: Partial<TierChoices>, offer = anOffer()): TierChoices {
  const all = { ...NO_CHOICES, ...choices };
  return withinLimits(all, offer, limitsOf(offer, {}, all));
}

test("the model's own name is no third tier", () => {
  assert.deepEqual(
    readOffers(MODELS).map(({ name }) => name),
    ["reasoning"],
  );
});

test("nothing is ever above the tier's limits, whatever was entered", () => {
  const choices = sent({ limit: 9999, budget: 5000, temperature: 7, topP: 0, seed: -3 });
  assert.deepEqual(
    [choices.limit, choices.budget, choices.temperature, choices.topP, choices.seed],
    [2048, 1536, 2, 0.01, 0],
  );
  // The reasoning budget is a part of the limit that was chosen.
  assert.equal(sent({ limit: 100, budget: 5000 }).budget, 75);
  assert.equal(sent({ limit: 12.6 }).limit, 13);
});

test("bounds of the service's own description count where they are narrower", () => {
  const document = {
    paths: {
      "/api/chat/v1/chat/completions": {
        post: {
          requestBody: {
            content: { "application/json": { schema: { $ref: "#/components/schemas/chat.x" } } },
          },
        },
      },
    },
    components: {
      schemas: {
        "chat.x": {
          properties: {
            temperature: { anyOf: [{ type: "number", maximum: 1.5 }, { type: "null" }] },
            n: { type: "integer", minimum: 1 },
          },
        },
      },
    },
  };
  const fields = fieldBounds(document, "chat");
  assert.deepEqual(fields, {
    temperature: { least: null, most: 1.5 },
    n: { least: 1, most: null },
  });
  assert.equal(limitsOf(anOffer(), fields, NO_CHOICES).temperature.most, 1.5);
  assert.deepEqual(fieldBounds(null, "chat"), {});
});

test("a model that does not reason is not asked to, and an unknown task is dropped", () => {
  const choices = sent({ budget: 50, effort: "low", task: "poetry" }, anOffer({ reasons: false }));
  assert.deepEqual([choices.budget, choices.effort, choices.task], [null, null, null]);
  assert.equal(sent({ task: "math" }).task, "math");
});

test("a request has only what was chosen", () => {
  const turns = [newQuestion("How many?")];
  const plain = completionBody("chat", { system: " " }, turns, NO_CHOICES);
  assert.deepEqual(plain, {
    model: "chat",
    messages: [{ role: "user", content: "How many?" }],
    stream: true,
    stream_options: { include_usage: true },
  });
  const chosen: TierChoices = {
    temperature: 0,
    topP: 1,
    limit: 64,
    budget: null,
    effort: "low",
    task: "math",
    seed: 7,
    schema: '{"type":"object"}',
  };
  const full = completionBody("reasoning", { system: "Be brief." }, turns, chosen);
  assert.deepEqual(full.messages[0], { role: "system", content: "Be brief." });
  assert.deepEqual(
    [full.temperature, full.max_completion_tokens, full.reasoning_effort, full.task, full.seed],
    [0, 64, "low", "math", 7],
  );
  assert.deepEqual(full.response_format, {
    type: "json_schema",
    json_schema: { name: "answer", schema: { type: "object" } },
  });
  assert.throws(
    () => completionBody("chat", { system: "" }, turns, { ...NO_CHOICES, schema: "{" }),
    SchemaTextError,
  );
});

test("answers of which nothing came are not sent, and reasoning never is", () => {
  const answer = { ...newAnswer("chat", 0), text: "It is 4.", reasoning: "Secret." };
  const turns = [
    newQuestion("a"),
    newAnswer("chat", 0),
    newQuestion("b"),
    answer,
    newQuestion("c"),
  ];
  const { messages } = completionBody("chat", { system: "" }, turns, NO_CHOICES);
  assert.deepEqual(
    messages.map(({ content }) => content),
    ["a", "b", "It is 4.", "c"],
  );
});

test("going on twice continues one beginning", () => {
  const body = completionBody("chat", { system: "" }, [newQuestion("a")], NO_CHOICES);
  const again = continuationBody(continuationBody(body, "It"), "It is");
  assert.deepEqual(again.messages.slice(1), [
    { role: "assistant", content: "It is", prefix: true },
  ]);
});

test("what was stored by another release is read without its surprises", () => {
  assert.deepEqual(readChoices({ temperature: "hot", effort: "extreme", schema: 4, seed: 3 }), {
    ...NO_CHOICES,
    seed: 3,
  });
  assert.deepEqual(readChoices(null), NO_CHOICES);
});

test("snippets never have the key, and quote what a shell or Python would read", () => {
  const body = completionBody("chat", { system: "" }, [newQuestion(`it's "$HOME" \\ \n`)], {
    ...NO_CHOICES,
    task: "math",
  });
  const curl = asCurl("http://h:8000", body, true);
  assert.match(curl, /authorization: Bearer \$TIERSERVE_KEY/);
  assert.ok(curl.includes(`it'\\''s`));
  const program = asPython("http://h:8000", body, false);
  assert.match(program, /extra_body=\{\n {8}"task": "math",/);
  assert.match(program, /stream=True/);
  assert.equal(
    python({ a: [null, false, 1.5] }, 0),
    '{\n    "a": [\n        None,\n        False,\n        1.5,\n    ],\n}',
  );
});
