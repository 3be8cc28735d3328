"""Refuse the requests of a flow that floods before anything of them is parsed.

One request of the flow has gone the whole way, and neither this replica nor another one had a place
for it. While as many requests of that flow wait here as then, and for a tenth of a second at most,
its next ones are refused by what is known already: they cost no parsing, no rules, no quota and no
question to other replicas. Each has a Retry-After of its own as before. One that comes back after
its Retry-After goes the whole way, and so do all of any other flow.
"""

import math
from dataclasses import dataclass, replace

from serve_app.api.gate import Gate
from serve_app.api.queue_entry import GateFullError
from serve_app.core.admission.by_deadline import DEADLINE
from serve_app.core.admission.fair_queue import MOST_FLOWS
from serve_app.core.admission.fairness import Flow, Presence
from serve_app.core.admission.retry_reservations import EARLY_S

# The drain of the slots, other replicas' and lenders' capacity are looked at again after so long.
VALID_S = 0.1
# Of a flow, a line in the log so often at most.
LOG_EVERY_S = 1.0


@dataclass(slots=True)
class _FullFlow:
    """What a refusal of the flow says about its next requests. `presence` is what it had then,
    `last_due_s` when the last one that was refused may retry, `prompt_tokens` how long the prompt
    was, or the shortest one of several."""

    refused: GateFullError
    until_s: float
    presence: Presence
    last_due_s: float
    prompt_tokens: float
    max_new_tokens: int

    def still_full(self, now: Presence, now_s: float) -> bool:
        """Whether nothing that counts has become better for the flow."""
        then = self.presence
        return (
            now_s < self.until_s
            and now.queued >= then.queued
            and now.sequences >= then.sequences
            and now.share <= then.share
        )


@dataclass(slots=True)
class _Line:
    at_s: float
    unlogged: int = 0


class EarlyRefusals:
    """Of one replica's gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        # By flow; empty where none has flooded lately.
        self.full: dict[str, _FullFlow] = {}
        self._lines: dict[str, _Line] = {}

    def observe(
        self, full: GateFullError, *, prompt_tokens: float, sequences: int, max_new_tokens: int
    ) -> None:
        """Nobody has taken this request. That says nothing of smaller ones, and where nothing of
        its flow waits nothing at all; nor does one that was refused for its own deadline or
        length."""
        if full.admission.reason == DEADLINE or full.admission.too_long:
            return
        flow, now_s = full.flow, self._gate.clock_s()
        presence, known = self._gate.presence(flow), self.full.get(flow.name)
        if sequences > 1 or not presence.queued:
            return
        if known is not None and known.still_full(presence, now_s):
            prompt_tokens = min(prompt_tokens, known.prompt_tokens)
        if known is None and len(self.full) >= MOST_FLOWS:
            del self.full[next(iter(self.full))]
        self.full[flow.name] = _FullFlow(
            full, now_s + VALID_S, presence, full.due_s, prompt_tokens, max_new_tokens
        )

    def refusal(
        self, flow: Flow, key: int, *, prompt_tokens: float, retried: bool
    ) -> GateFullError | None:
        """Why the flow's next request is refused; None where it has to go the whole way. `key`,
        `prompt_tokens` and `retried` as of `Gate.enter`.

        (1) What was refused a moment ago was no larger, and the flow is no better off than then.
        (2) One that was refused before and comes when it should goes the whole way.
        (3) It is demand, whatever becomes of it.
        (4) One that comes too early keeps its time; another one gets the next.
        """
        full, now_s = self.full.get(flow.name), self._gate.clock_s()
        if full is None or prompt_tokens < full.prompt_tokens:  # (1)
            return None
        if not full.still_full(self._gate.presence(flow), now_s):
            del self.full[flow.name]
            return None
        reservations = self._gate.histories.of(flow).reservations
        comes_s = reservations.comes_at_s(key)  # (2)
        if comes_s is not None and (retried or comes_s <= now_s + EARLY_S):
            return None
        if self._gate.demand is not None:  # (3)
            self._gate.demand.arrived(
                sequences=1, max_new_tokens=full.max_new_tokens, prompt_tokens=prompt_tokens
            )
        admission = full.refused.admission
        if comes_s is not None:  # (4)
            due_s, after_s = comes_s, math.ceil(comes_s - now_s)
        else:
            due_s = reservations.next_free_s(full.last_due_s, admission.apart_s)
            after_s = math.ceil(due_s - now_s)
            if reservations.add(key, due_s, now_s + after_s - due_s, work=full.refused.work):
                full.last_due_s = due_s
        admission = replace(admission, retry_after_s=max(1, after_s))
        return GateFullError(admission, key, due_s, flow, full.refused.work)

    def line(self, flow: Flow) -> int | None:
        """How many refusals of the flow have no line in the log yet, where it is time for one that
        counts them all."""
        now_s, line = self._gate.clock_s(), self._lines.get(flow.name)
        if line is None or now_s - line.at_s >= LOG_EVERY_S:
            if line is None and len(self._lines) >= MOST_FLOWS:
                del self._lines[next(iter(self._lines))]
            self._lines[flow.name] = _Line(now_s)
            return 0 if line is None else line.unlogged
        line.unlogged += 1
        return None
