"""Run now, wait in line, or be refused with an honest time to come back."""

import math
from dataclasses import dataclass
from enum import StrEnum

from serve_app.core.drain import Drain

# Those who come back are spread over a little more time than their work takes, or chance alone
# would find the line full. By the square-root rule of staffing (Halfin and Whitt 1981) the spare
# capacity that this needs falls with the root of the places.
SPARE_CAPACITY = 0.7


class Verdict(StrEnum):
    RUN = "run"
    QUEUE = "queue"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class GateLoad:
    """One replica's gate. `promised` counts refused requests that were told a time and are still
    expected."""

    slots: int
    running: int
    queued: int
    promised: int


@dataclass(frozen=True, slots=True)
class Admission:
    verdict: Verdict
    reason: str
    ahead: int
    wait_s: float
    retry_after_s: int = 0


def admit(
    load: GateLoad,
    drain: Drain,
    *,
    sequences: int,
    returning: bool,
    max_queued_requests: int,
    max_wait_s: float,
) -> Admission:
    """Decide on one request that needs `sequences` slots.

    The line holds at most `max_queued_requests`, and no more than the measured drain can start
    within `max_wait_s`. A `returning` request was refused earlier and comes back when it was told
    to: half the line is kept for those, the line takes half as many again of them, and they may
    wait up to twice as long, because a second refusal is worse. Retry-After is the time at which
    the line, with all earlier promises in it, will be half full: what varies is then as likely to
    leave it shorter as longer.
    """
    if load.queued == 0 and load.running + sequences <= load.slots:
        return Admission(Verdict.RUN, "a slot is free", 0, 0.0)
    longest_s = 2 * max_wait_s if returning else max_wait_s
    places = max_queued_requests * 3 // 2 if returning else max_queued_requests
    in_time = drain.starts_within(longest_s) if drain.measured else places
    bound = min(places, in_time)
    wait_s = drain.start_in_s(load.queued)
    kept = 0 if returning else min(load.promised, bound // 2)
    if load.queued + kept < bound:
        return Admission(Verdict.QUEUE, "all slots are busy", load.queued, wait_s)
    room_s = drain.start_in_s(load.queued + load.promised - bound // 2)
    room_s /= 1 - SPARE_CAPACITY / math.sqrt(load.slots + bound)
    reason = "queue_full" if places <= in_time else "wait_too_long"
    return Admission(
        Verdict.REFUSE, reason, load.queued, wait_s, retry_after_s=max(1, math.ceil(room_s))
    )
