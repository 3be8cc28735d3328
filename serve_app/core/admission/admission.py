"""Run now, wait in the queue, or be refused with an honest Retry-After."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from serve_app.core.admission.fairness import Standing
from serve_app.core.admission.prefill import PrefillAhead
from serve_app.core.admission.queue_drain import Drain

# Retries are spread over a little more time than their work takes, or chance alone would find the
# queue full. By the square-root rule of staffing (Halfin and Whitt 1981) the spare capacity that
# this needs falls with the root of the queue's length.
SPARE_CAPACITY = 0.7


class Verdict(StrEnum):
    RUN = "run"
    QUEUE = "queue"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class GateLoad:
    """One replica's gate, as a request of one flow finds it. `reserved` counts refused requests of
    that flow that got a Retry-After and are still expected."""

    slots: int
    running: int
    reserved: int
    standing: Standing
    # When refused requests of that flow are due to retry, from now on.
    due_in_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    verdict: Verdict
    reason: str
    ahead: int
    wait_s: float
    retry_after_s: int = 0
    # Of two that are to retry, the least time between them that leaves a start for each.
    apart_s: float = 0.0


def admit(
    load: GateLoad,
    drain: Drain,
    prefill: PrefillAhead,
    *,
    sequences: int,
    returning: bool,
    max_queued_requests: int,
    max_wait_s: float,
    margin: float,
) -> Admission:
    """Decide on one request that needs `sequences` slots, by when its first token would come.

    The queue holds at most `max_queued_requests`, and no more than can have their first tokens
    within `max_wait_s`: by the drain of the slots, and by the prompts that are to be read
    before. `margin` is by how much such forecasts fell short. A `returning` request was refused
    earlier and comes back after its Retry-After: half the queue is kept for those, the queue takes
    half as many again of them, and they may wait up to twice as long, because a second refusal is
    worse. A new one takes no slot that one of those would miss (`keeps_promises`). Retry-After is
    the time at which the queue, with all earlier reservations in it, will be half full: what varies
    is then as likely to leave it shorter as longer.

    All of this is by flow: of the places, and of the starts in time, a flow has what the others
    leave, and never less than its share. Where it has fewer sequences than its share of the slots,
    only others can be in its way, and it is not refused for them.

    A prompt that alone takes longer than `max_wait_s` to read runs when no other is before it.
    """
    own = load.standing
    free = own.ahead == 0 and load.running + sequences <= load.slots and prefill.open
    spare = returning or keeps_promises(
        drain, load.due_in_s, own, sequences=sequences, wait_s=max_wait_s / margin
    )
    if free and spare:
        return Admission(Verdict.RUN, "a slot is free", 0, 0.0)
    longest_s = (2 * max_wait_s if returning else max_wait_s) / margin
    to_start_s = longest_s - prefill.own_s
    places = max_queued_requests * 3 // 2 if returning else max_queued_requests
    places = _left_by_others(places, own.others_queued, own.share)
    in_time = drain.starts_within(max(0.0, to_start_s))
    own_in_time = _left_by_others(in_time, own.others_ahead, own.share)
    bound = min(places, own_in_time, math.floor(in_time * own.drain_share))
    wait_s = prefill.first_token_in_s(drain.start_in_s(own.starts_ahead))
    kept = 0 if returning else min(load.reserved, bound // 2)
    read_s, mean_s = prefill.read_s, prefill.mean_s / own.drain_share
    kept_s = 0.0 if returning else min(load.reserved * mean_s, to_start_s / 2)
    alone = read_s == 0.0
    in_time_to_read = alone or read_s + kept_s <= to_start_s
    comes_in_time = own.queued + kept < bound and in_time_to_read and spare
    not_its_own = own.below_share(sequences, load.slots) and prefill.flow_s <= to_start_s
    if comes_in_time or (not_its_own and own.queued < places):
        reason = "all slots are busy" if prefill.open else "prompts are ahead"
        return Admission(Verdict.QUEUE, reason, own.ahead, wait_s)
    coming = own.queued + load.reserved
    places_s = drain.start_in_s(own.starts(coming - bound // 2))
    # Slots may come free all at once, and then none for long.
    places_s = max(places_s, drain.start_in_s(own.starts(coming)) - max(0.0, to_start_s))
    places_s = _with_spare(places_s, load.slots + bound)
    prompts_s = read_s + load.reserved * mean_s - max(0.0, to_start_s) / 2
    prompts_s = _with_spare(prompts_s, longest_s / max(prefill.mean_s, 1e-6))
    room_s = max(places_s, prompts_s)
    apart_s = max(drain.service_s / own.drain_share / max(1, len(drain.remaining_s)), mean_s)
    reason = "queue_full" if own.queued + kept >= places else "wait_too_long"
    return Admission(
        Verdict.REFUSE,
        reason,
        own.ahead,
        wait_s,
        retry_after_s=max(1, math.ceil(room_s)),
        apart_s=_with_spare(apart_s, load.slots + bound),
    )


def keeps_promises(
    drain: Drain, due_in_s: Sequence[float], own: Standing, *, sequences: int, wait_s: float
) -> bool:
    """Whether those that are due to retry find a slot within `wait_s` if a new request of
    `sequences` begins before them.

    What begins now has its slot until one service time from now, so only those that come earlier
    can miss it. Where answers are long, that are many: slots that become free all at once, and
    are all taken at once by whoever is there, leave none for those that were promised one later.
    The more service times are spread, the more of what begins meanwhile has ended by then, too.
    """
    before = own.queued + sequences
    sums_s = (0.0, *accumulate(drain.remaining_s)) if due_in_s else ()
    for rank, due_s in enumerate(due_in_s, start=1):
        by_s = due_s + wait_s
        if by_s >= drain.service_s:
            return True
        starts = drain.starts_within(by_s)
        used_s = starts * by_s - sums_s[starts]
        if starts + math.floor(drain.spread * used_s / drain.service_s) < own.starts(before + rank):
            return False
    return True


def _left_by_others(all_of_it: int, others: int, share: float) -> int:
    return max(all_of_it - others, math.ceil(all_of_it * share))


def _with_spare(room_s: float, places: float) -> float:
    return room_s / (1 - SPARE_CAPACITY / math.sqrt(max(places, 1.0)))
