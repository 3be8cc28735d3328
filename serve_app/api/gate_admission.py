"""What the gate answers a request that has no slots at once: it waits, with a forecast of its first
token, or it is refused, with a reservation for its retry.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from serve_app.api.queue_entry import GateFullError
from serve_app.core.admission.admission import (
    Admission,
    GateLoad,
    Verdict,
    admit,
    keeps_promises,
    promised_wait_s,
)
from serve_app.core.admission.by_deadline import DEADLINE, ShortestAnswer, too_late
from serve_app.core.admission.fairness import Flow
from serve_app.core.admission.flow_history import FlowHistory
from serve_app.core.admission.retry_reservations import DueBy

if TYPE_CHECKING:
    from serve_app.api.gate import Gate


@dataclass(frozen=True, slots=True)
class AskingRequest:
    """A request that comes to the gate; `key`, `flow` and `work` as of `Gate.enter`, `returning`:
    it was refused before, and comes when it should."""

    sequences: int
    key: int | None
    returning: bool
    prompt_tokens: float
    flow: Flow
    work: float = 1.0


def forecast_wait_s(gate: "Gate", asking: AskingRequest, reserved: int) -> float | None:
    """The wait for the first token of one that waits, None for one that runs after all; `reserved`
    places are kept for those of its flow that were refused. Raises GateFullError."""
    now_s, history = gate.clock_s(), gate.histories.of(asking.flow)
    standing, drain = gate.standing(asking.flow), gate.drain()
    holds_s = drain.holds_s(asking.work)
    margin = history.forecasts.margin(now_s)
    flow_tokens = standing.own_tokens / standing.drain_share
    tokens_ahead = max(standing.tokens_ahead, flow_tokens)
    admission = admit(
        GateLoad(
            slots=gate.limits.slots,
            running=gate.running_sequences,
            reserved=reserved,
            standing=standing,
            due_by=_due_by(gate, history, holds_s, margin),
        ),
        drain,
        gate.prefill_ahead(asking.prompt_tokens, tokens_ahead, flow_tokens),
        sequences=asking.sequences,
        returning=asking.returning,
        holds_s=holds_s,
        max_queued_requests=gate.limits.max_queued_requests,
        max_wait_s=gate.limits.max_wait_s,
        margin=margin,
    )
    if admission.verdict is Verdict.REFUSE:
        raise _refused(gate, admission, asking)
    return None if admission.verdict is Verdict.RUN else admission.wait_s


def may_pass_others(
    gate: "Gate", asking: AskingRequest, shortest: ShortestAnswer, *, waits: bool
) -> bool:
    """Whether one with a deadline passes others of its flow, none of whom is late for it. Raises
    GateFullError where its shortest answer would be late."""
    now_s, start_in_s, ahead, may_pass = gate.clock_s(), None, 0, False
    margin, drain = gate.histories.of(asking.flow).forecasts.margin(now_s), None
    if waits:
        drain = gate.drain()
        position, passed = gate.passed_by(asking.flow, now_s + shortest.latest_start_s)

        def start_s(position: int) -> float:
            standing = gate.standing(asking.flow, position)
            read = gate.prefill_ahead(asking.prompt_tokens, standing.tokens_ahead)
            return max(drain.start_in_s(standing.starts_ahead), read.read_s)

        may_pass = bool(passed) and all(
            now_s + start_s(at) * margin <= other.latest_start_s
            for at, other in enumerate(passed, start=position + 1)
        )
        ahead = position if may_pass else position + len(passed)
        start_in_s = start_s(ahead)
    service_s = gate.service.mean_s if drain is None else drain.service_s
    late = too_late(shortest, start_in_s=start_in_s, margin=margin, service_s=service_s)
    if late is not None:
        refused = Admission(Verdict.REFUSE, DEADLINE, ahead, start_in_s or 0.0, late.retry_after_s)
        raise _refused(gate, refused, asking)
    return may_pass


def keeps_reservations(gate: "Gate", sequences: int, flow: Flow, work: float | None) -> bool:
    """Whether those of the flow that were refused find their places, if so many sequences run that
    would fit now, with so much work, or None, as much as what comes."""
    now_s, history = gate.clock_s(), gate.histories.get(flow.name)
    if history is None or not history.reservations.outstanding(now_s):
        return True
    drain, margin = gate.drain(), history.forecasts.margin(now_s)
    holds_s = drain.service_s if work is None else drain.holds_s(work)
    return keeps_promises(
        drain,
        _due_by(gate, history, holds_s, margin),
        gate.standing(flow),
        sequences=sequences,
        holds_s=holds_s,
        wait_s=promised_wait_s(gate.limits.max_wait_s, margin),
    )


def _due_by(gate: "Gate", history: FlowHistory, holds_s: float, margin: float) -> tuple[DueBy, ...]:
    """When those are due whose start `keeps_promises` looks at."""
    within_s = holds_s - promised_wait_s(gate.limits.max_wait_s, margin)
    return history.reservations.due_by(gate.clock_s(), max(0.0, within_s))


def _refused(gate: "Gate", admission: Admission, asking: AskingRequest) -> GateFullError:
    """With a reservation for its retry."""
    now_s, reservations = gate.clock_s(), gate.histories.of(asking.flow).reservations
    due_s = reservations.next_free_s(now_s + admission.retry_after_s, admission.apart_s)
    admission = replace(admission, retry_after_s=math.ceil(due_s - now_s))
    later_s = now_s + admission.retry_after_s - due_s
    reservations.add(asking.key, due_s, later_s, work=asking.work)
    return GateFullError(admission, asking.key, due_s, asking.flow, asking.work)
