"""When a queued request begins to run, from how long requests have been holding their slots."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

# Weight of the newest completion: about the last 60 requests count. With fewer, the mean of times
# that vary as much as answers do is off by a fifth, and so is every Retry-After.
NEWEST_WEIGHT = 0.03
# Of the mean, what a request that is due has still to go.
LEAST_LEFT = 0.02


def batch_slowdown(batch_cost: float, sequences: float, slots: int) -> float:
    """How fast a step with this many sequences is, against one with all slots busy (1.0).

    `batch_cost` is what a sequence adds to a step, as a share of a step with none.
    """
    return (1 + batch_cost * min(sequences, slots)) / (1 + batch_cost * slots)


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """How long a whole request (`relative_work` 1) holds its slot while all slots are busy.
    `completions` 0 means derived, not yet measured; `mean_square_s2` is of the same times."""

    mean_s: float
    completions: int = 0
    mean_square_s2: float = 0.0

    @property
    def measured(self) -> bool:
        return self.completions > 0

    @property
    def spread(self) -> float:
        """How far times lie about their mean, as a share of it: 0 where all are alike, 1 (the most)
        where they lie anywhere from nothing to twice the mean. Of even spread, the standard
        deviation is this share of the mean over the root of 3."""
        if self.mean_s <= 0:
            return 0.0
        variation = self.mean_square_s2 / self.mean_s**2 - 1
        return min(1.0, math.sqrt(3 * max(0.0, variation)))

    def times(self, factor: float) -> "ServiceTime":
        """Of requests with this much more work."""
        return ServiceTime(
            self.mean_s * factor, self.completions, self.mean_square_s2 * factor * factor
        )


def observe_completion(service: ServiceTime, held_s: float) -> ServiceTime:
    """Exponentially weighted means; the first measurements replace the derived value at once."""
    count = service.completions + 1
    weight = max(NEWEST_WEIGHT, 1 / count)
    return ServiceTime(
        service.mean_s + weight * (held_s - service.mean_s),
        count,
        service.mean_square_s2 + weight * (held_s**2 - service.mean_square_s2),
    )


@dataclass(frozen=True, slots=True)
class Drain:
    """Seconds until each slot is free (sorted, 0.0 = free now) and the service time after that,
    with its `spread` (`ServiceTime.spread`), of requests with this much `work`."""

    remaining_s: tuple[float, ...]
    service_s: float
    spread: float = 0.0
    work: float = 1.0

    def holds_s(self, work: float) -> float:
        """How long a request with this much work holds its slot."""
        return self.service_s * work / self.work

    def of_work(self, work: float) -> "Drain":
        """Where what comes has this much work."""
        return replace(self, service_s=self.holds_s(work), work=work)

    def start_in_s(self, ahead: int) -> float:
        """Seconds until a request with `ahead` others before it begins to run.

        Every slot serves the queue in turn, each for the mean service time, so the request with
        `ahead` before it takes slot `ahead mod slots` after `ahead // slots` whole turns.
        """
        if ahead < 0 or not self.remaining_s:
            return 0.0
        turns, slot = divmod(ahead, len(self.remaining_s))
        return self.remaining_s[slot] + turns * self.service_s

    def starts_within(self, wait_s: float) -> int:
        """How many queued requests begin to run within `wait_s`."""
        if wait_s < self.service_s:
            return bisect_right(self.remaining_s, wait_s)
        return sum(
            1 + math.floor((wait_s - free_s) / self.service_s)
            for free_s in self.remaining_s
            if free_s <= wait_s
        )


def estimate_drain(
    service: ServiceTime,
    running_ages_s: Sequence[float],
    slots: int,
    works: Sequence[float] | None = None,
) -> Drain:
    """The drain of `slots` slots while requests of `running_ages_s` run, each with its part of
    `works`, or None, all whole. There are more of them than slots after the limit was lowered; then
    only the last ones to end make room.

    Each ends as its own work says: short ones beside whole ones follow each other quickly. Those
    that run longer than the mean say that it is too low: each counts like one completion of its
    age, by its part of the work, since the first completions of a new load are its shortest; of
    twice its age, before as many have ended as run. Such a request has half the mean to go, as
    answers have no fixed length; of those past half of it, where times are spread, too.

    The first of many slots is free long before a typical one, by as much as service times spread:
    of `n` even draws from `1 - spread` to `1 + spread` times what is left, the k-th smallest is
    expected at `1 - spread + 2 * spread * (k - 1/2) / n`. Where answers end anywhere, `n` equal
    slots so become free at the rate that Little's law says, `n` in a mean service time.
    """
    works = (1.0,) * len(running_ages_s) if works is None else works
    mean_work = sum(works) / len(works) if works else 1.0
    # As if each were a whole one.
    ages = [age_s / work for age_s, work in zip(running_ages_s, works, strict=True)]
    weights = [work / mean_work for work in works]
    late = [one for one in zip(ages, weights, strict=True) if one[0] > service.mean_s]
    completions = max(1.0, min(service.completions, 1 / NEWEST_WEIGHT))
    count = completions + len(ages)
    # While fewer have ended than run, nobody knows how much of its time such a one has behind it.
    unknown = max(0.0, 1 - service.completions / max(1, len(ages)))
    held_s = (count - sum(weight for _, weight in late)) * service.mean_s
    held_s += (1 + unknown) * sum(age * weight for age, weight in late)
    mean_s = max(held_s / count, 1e-3)
    spread = service.spread
    left_s = (_left_s(age, mean_s, spread) for age in ages)
    typical = sorted([left * work for left, work in zip(left_s, works, strict=True)])
    first, step = 1 - spread, 2 * spread / max(1, len(typical))
    remaining = [left * (first + step * (k + 0.5)) for k, left in enumerate(typical)]
    free = [0.0] * (slots - len(ages))
    return Drain(tuple((free + remaining)[-slots:]), mean_s, spread)


def estimate_first_drain(
    expected_s: float, ages_s: Sequence[float], limits_left_s: Sequence[float], slots: int
) -> Drain:
    """The drain before any request has ended, when each may run for so much longer at most.

    That nobody has ended is what is known of how long they take. What was expected counts like one
    that has: the mean is then all time that was spent, for one end (the maximum likelihood under
    censoring, of times without memory), and the k-th of `n` ends after the sum of `mean / n`,
    `mean / (n - 1)`, and so on. So the longer nobody ends the later is the first end expected, in
    about as long as they have run so far, and no later than the first one's limit allows.
    """
    mean_s = max(expected_s + sum(ages_s), 1e-3)
    count = len(ages_s)
    ends_s = accumulate(mean_s / (count - rank) for rank in range(count))
    remaining = [min(pair) for pair in zip(ends_s, sorted(limits_left_s), strict=True)]
    free = [0.0] * (slots - count)
    whole_s = (age + left for age, left in zip(ages_s, limits_left_s, strict=True))
    return Drain(tuple((free + remaining)[-slots:]), min(mean_s, max(whole_s, default=mean_s)), 1.0)


def _left_s(age_s: float, mean_s: float, spread: float) -> float:
    """What a request of this age has to go. The less times are spread, the more its age tells; one
    that is late is so by something that lasts, most likely, as long again."""
    half_s = mean_s / 2
    if age_s < half_s:
        return mean_s - age_s
    due_s = max(abs(mean_s - age_s), LEAST_LEFT * mean_s)
    return min(half_s, spread * half_s + (1 - spread) * due_s)


@dataclass(frozen=True, slots=True)
class DrainLimit:
    seconds: float
    reason: str


def drain_limit_s(
    *, max_new_tokens: int, token_s: float, queue_wait_s: float, margin: float = 1.5
) -> DrainLimit:
    """How long a replica that is being stopped may go on: what waits begins, and the longest
    answer ends at the measured time a token, with a margin for a speed that varies."""
    seconds = margin * (queue_wait_s + max_new_tokens * token_s)
    reason = (
        f"{margin:g} x ({queue_wait_s:.1f} s queue + {max_new_tokens} tokens at "
        f"{token_s * 1e3:.1f} ms)"
    )
    return DrainLimit(max(5.0, seconds), reason)
