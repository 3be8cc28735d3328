"""Run now, wait in the queue, or be refused with an honest Retry-After."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from serve_app.core.admission.fairness import Standing
from serve_app.core.admission.prefill import PrefillAhead
from serve_app.core.admission.queue_drain import Drain
from serve_app.core.admission.retry_reservations import DueBy

# Retries are spread over a little more time than their work takes, or chance alone would find the
# queue full. By the square-root rule of staffing (Halfin and Whitt 1981) the spare capacity that
# this needs falls with the root of the queue's length.
SPARE_CAPACITY = 0.7
# Of the longest wait, what a new request may leave those who were promised a later start: the rest
# is for what varies until they come.
PROMISED_WAIT = 0.5


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
    # When refused requests of that flow are due to retry.
    due_by: tuple[DueBy, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    verdict: Verdict
    reason: str
    ahead: int
    wait_s: float
    retry_after_s: int = 0
    # Of two that are to retry, the least time between them that leaves a start for each.
    apart_s: float = 0.0
    # A shorter one might have been admitted.
    too_long: bool = False


def admit(
    load: GateLoad,
    drain: Drain,
    prefill: PrefillAhead,
    *,
    sequences: int,
    returning: bool,
    holds_s: float,
    max_queued_requests: int,
    max_wait_s: float,
    margin: float,
) -> Admission:
    """Decide on one request that needs `sequences` slots for `holds_s`, by when its first token
    would come.

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
    promised_s = promised_wait_s(max_wait_s, margin)
    spare = returning or keeps_promises(
        drain, load.due_by, own, sequences=sequences, holds_s=holds_s, wait_s=promised_s
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
    prompts = longest_s / max(prefill.mean_s, 1e-6)
    prompts_s = _with_spare(prompts_s, prompts)
    room_s = max(places_s, prompts_s)
    apart_s = drain.service_s / own.drain_share / max(1, len(drain.remaining_s))
    apart_s = max(_with_spare(apart_s, load.slots + bound), _with_spare(mean_s, prompts))
    reason = "queue_full" if own.queued + kept >= places else "wait_too_long"
    return Admission(
        Verdict.REFUSE,
        reason,
        own.ahead,
        wait_s,
        retry_after_s=max(1, math.ceil(room_s)),
        apart_s=apart_s,
        too_long=not spare and holds_s > drain.service_s,
    )


def promised_wait_s(max_wait_s: float, margin: float) -> float:
    """How long those who come back may have to wait for a new request (`keeps_promises`)."""
    return PROMISED_WAIT * max_wait_s / margin


def keeps_promises(
    drain: Drain,
    due_by: Sequence[DueBy],
    own: Standing,
    *,
    sequences: int,
    holds_s: float,
    wait_s: float,
) -> bool:
    """Whether those that are due to retry find a slot within `wait_s` if a new request of
    `sequences`, which holds its slots for `holds_s`, begins before them.

    Only those that come before it ends can miss its slots. Where answers are long, that are many:
    slots that become free all at once, and are all taken at once by whoever is there, leave none
    for those that were promised one later. Where those that come are shorter, it takes the slot
    from one of them after the other; and what nobody uses before they come is lost for them, but
    for the slots that are free then.
    """
    starts, unused = _StartsWithin(drain), 0
    for due_s, count in due_by:
        by_s = due_s + wait_s
        if by_s >= holds_s:
            return True
        before = own.starts(own.queued + count - 1 + sequences * starts.of_one_slot(due_s))
        unused = max(unused, starts(due_s) - starts.free_slots(due_s) - before)
        needed = own.starts(own.queued + count + sequences * starts.of_one_slot(by_s))
        if starts(by_s) - unused < needed:
            return False
    return True


class _StartsWithin:
    """How many requests begin within a time. The more service times are spread, the more of what
    begins meanwhile has ended by then, too."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self._sums_s = (0.0, *accumulate(drain.remaining_s))

    def __call__(self, wait_s: float) -> int:
        drain, slots = self._drain, self.free_slots(wait_s)
        starts = drain.starts_within(wait_s)
        turns = (slots * wait_s - self._sums_s[slots]) / drain.service_s
        return starts + math.floor(drain.spread * (turns - (starts - slots)))

    def free_slots(self, wait_s: float) -> int:
        return bisect_right(self._drain.remaining_s, wait_s)

    def of_one_slot(self, wait_s: float) -> int:
        return 1 + math.floor(wait_s / self._drain.service_s)


def _left_by_others(all_of_it: int, others: int, share: float) -> int:
    return max(all_of_it - others, math.ceil(all_of_it * share))


def _with_spare(room_s: float, places: float) -> float:
    return room_s / (1 - SPARE_CAPACITY / math.sqrt(max(places, 1.0)))
