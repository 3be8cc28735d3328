"""Whether a request with a deadline is worth taking in: its shortest answer has to be in time."""

import math
from dataclasses import dataclass

from serve_app.core.reasoning.deadline import Pace

# Why it is refused.
DEADLINE = "deadline_unreachable"


@dataclass(frozen=True, slots=True)
class ShortestAnswer:
    """What a request with a deadline needs at least: `tokens`, at the pace of a tier that is idle,
    of one that is full, and as it is `now`, for one that has its slots at once. `left_s` is what is
    left until its deadline."""

    left_s: float
    tokens: int
    idle: Pace
    busy: Pace
    now: Pace

    @property
    def takes_idle_s(self) -> float:
        return self.idle.takes_s(self.tokens)

    @property
    def most_tokens(self) -> int:
        """What it gets at most: all the time, and the engine for itself."""
        return max(self.tokens, self.idle.tokens_within(self.left_s))

    @property
    def latest_start_s(self) -> float:
        """From now on: when it has to have its slots. `busy` counts from its start."""
        return self.left_s - self.busy.takes_s(self.tokens)


@dataclass(frozen=True, slots=True)
class TooLate:
    """`never`: not on an idle tier either. Otherwise it would be in time in `retry_after_s`, as
    things stand."""

    never: bool
    reason: str
    retry_after_s: int = 0


def too_late(
    shortest: ShortestAnswer, *, start_in_s: float | None, margin: float, service_s: float
) -> TooLate | None:
    """None where it is in time if it starts then; `start_in_s` None: it has its slots now. `margin`
    is by how much such forecasts fell short, `service_s` how long one request has its slot: where
    no wait is to blame, fewer requests beside it may help."""
    if shortest.takes_idle_s > shortest.left_s:
        needed = f"{shortest.takes_idle_s:.2f} s for {shortest.tokens} tokens"
        return TooLate(True, f"an idle tier takes {needed}")
    if start_in_s is None:
        late_s, start_in_s = shortest.now.takes_s(shortest.tokens) - shortest.left_s, 0.0
    else:
        late_s = start_in_s * margin - shortest.latest_start_s
    if late_s <= 0:
        return None
    wait_s = late_s if start_in_s * margin >= late_s else max(late_s, service_s)
    reason = f"its slots come in {start_in_s:.2f} s, {late_s:.2f} s too late"
    return TooLate(False, reason, retry_after_s=max(1, math.ceil(wait_s)))
