"""Why a tier does not run a request now: it is full, or has no room for one from elsewhere."""

from serve_app.api.answer_deadline import DEADLINE_FIELD
from serve_app.api.forwarding import PREFIX_HEADER
from serve_app.api.gate import Gate
from serve_app.api.lending import no_capacity
from serve_app.api.queue_entry import GateFullError, QueueEntry
from serve_app.api.replay_wire import Resumption
from serve_app.api.request_context import RequestContext, header
from serve_app.core.admission.by_deadline import DEADLINE
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError


def refuse_forwarded(
    context: RequestContext, gate: Gate, prompt_tokens: float, work: float
) -> None:
    """Raises RequestError where one that another replica has forwarded would not run at once, or,
    forwarded for its prefix, would wait in the engine for longer than that is worth."""
    most_wait_ms = header(context.scope, PREFIX_HEADER)
    if most_wait_ms is not None and gate.room is not None:
        wait_s = gate.room.ahead(0.0, 0.0).engine_s
        if wait_s * 1e3 > float(most_wait_ms):
            raise no_capacity("Reading its prompt again elsewhere is sooner.")
    sequences = context.prepared.sequences
    if context.borrower is not None:
        lending = gate.may_lend(sequences, prompt_tokens)
        if not lending.allowed:
            raise no_capacity(f"Nothing to lend: {lending.reason}.")
    elif not gate.has_room(sequences, context.caller.flow, work):
        raise no_capacity("No room for a forwarded request.")


def refuse_hand_over(resumption: Resumption, gate: Gate, *, draining: bool) -> None:
    """Raises RequestError where a stream that another replica runs would have to move again, or
    would be silent here for longer than it has to: it is offered again."""
    soon = gate.room is None or gate.room.reads_handed_over_soon()
    if resumption.only_with_room and (draining or not soon):
        raise _no_room_for_stream()


def refuse_waiting_hand_over(resumption: Resumption, entry: QueueEntry) -> None:
    """Raises RequestError where a stream that another replica runs would not go on at once."""
    if resumption.only_with_room and not entry.granted.done():
        raise _no_room_for_stream()


def _no_room_for_stream() -> RequestError:
    return RequestError(
        503, "No room for a stream that is handed over.", code="no_capacity", retry_after_s=1
    )


def tier_full(tier: Tier, full: GateFullError) -> RequestError:
    """The 429 of a request that the gate has refused."""
    admission = full.admission
    if admission.reason == DEADLINE:
        return RequestError(
            429,
            f"The {tier} tier would not have begun in time for this deadline: {admission.ahead} "
            f"requests are ahead, about {admission.wait_s:.1f} s. It would be in time in about "
            f"{admission.retry_after_s} s, or with a later deadline.",
            param=DEADLINE_FIELD,
            code=DEADLINE,
            retry_after_s=admission.retry_after_s,
        )
    return RequestError(
        429,
        f"The {tier} tier is full: {admission.ahead} requests are ahead, about "
        f"{admission.wait_s:.0f} s of work. Come back in {admission.retry_after_s} s.",
        code=admission.reason,
        retry_after_s=admission.retry_after_s,
    )
