import assert from "node:assert/strict";
import { test } from "node:test";
import { errorInEvent, retryAfter } from "../src/service/client.ts";

test("Retry-After is a number of seconds, and nothing else", () => {
  assert.equal(retryAfter("3"), 3);
  assert.equal(retryAfter("0"), 0);
  for (const header of [null, "", " ", "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"]) {
    assert.equal(retryAfter(header), null);
  }
});

test("a refusal behind heartbeats is asked again, another error is not", () => {
  const full = errorInEvent({ error: { message: "Full.", type: "rate_limit_error", code: "x" } });
  assert.deepEqual([full?.status, full?.retryAfter_s, full?.message], [429, 5, "Full."]);
  const broken = errorInEvent({ error: { message: "Broke.", type: "server_error", code: null } });
  assert.deepEqual([broken?.status, broken?.retryAfter_s], [500, null]);
  for (const event of [null, [], {}, { error: "text" }, { choices: [] }]) {
    assert.equal(errorInEvent(event), null);
  }
});
