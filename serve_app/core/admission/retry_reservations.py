"""Who was refused with a Retry-After and is still expected, so that capacity is kept for them."""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

# Clients retry no earlier than Retry-After says, but for rounding, and a little later.
EARLY_S = 0.05
LATE_S = 2.0
# About the last 50 reservations say how many of those who got a Retry-After retry at all.
NEWEST_WEIGHT = 0.02
# In search of a free time.
MOST_LOOKED_AT = 1000


@dataclass(slots=True)
class RetryReservations:
    """When refused clients are due to retry, so that capacity can be kept for them: times in
    order, each with the key of its request (a hash of body and sender) and with how much later its
    client comes, whose Retry-After is in whole seconds."""

    _due: list[tuple[float, int, float]] = field(default_factory=list)
    _keys: Counter[int] = field(default_factory=Counter)
    _kept_fraction: float = 1.0

    def add(self, key: int | None, due_s: float, later_s: float = 0.0) -> None:
        """Remember that a request is due to retry at `due_s`, and comes so much later."""
        key = 0 if key is None else key
        insort(self._due, (due_s, key, later_s))
        self._keys[key] += 1

    def withdraw(self, key: int | None, due_s: float) -> None:
        """Forget one reservation, unless it is redeemed or expired already."""
        reservation = (due_s, 0 if key is None else key)
        index = bisect_left(self._due, reservation)
        if index < len(self._due) and self._due[index][:2] == reservation:
            self._take(index)

    def outstanding(self, now_s: float) -> int:
        """How many are still expected to come, by the fraction that came so far."""
        self._forget(now_s)
        return round(len(self._due) * self._kept_fraction)

    def due_in_s(self, now_s: float, within_s: float) -> tuple[float, ...]:
        """When those are due that are expected to come within so long, from now on."""
        self._forget(now_s)
        if not self._due or self._due[0][0] >= now_s + within_s:
            return ()
        due = self._due[: bisect_left(self._due, (now_s + within_s, 0))]
        expected = round(len(due) * self._kept_fraction)
        return tuple(
            max(0.0, due[index * len(due) // expected][0] - now_s) for index in range(expected)
        )

    def next_free_s(self, due_s: float, apart_s: float) -> float:
        """The first time from `due_s` on that is so far from all that is reserved, or less where
        few retry; behind all of it where the next so many are no farther apart."""
        apart_s *= self._kept_fraction
        first = bisect_left(self._due, (due_s - apart_s, 0))
        for other_s, _, _ in islice(self._due, first, first + MOST_LOOKED_AT):
            if other_s >= due_s + apart_s:
                return due_s
            due_s = max(due_s, other_s + apart_s)
        return max(due_s, self._due[-1][0] + apart_s) if self._due else due_s

    def redeem(self, key: int | None, now_s: float, *, retried: bool = False) -> bool:
        """Whether this request was refused here before and retries after its Retry-After, or
        earlier where it says itself that it is `retried`. One that was not refused is never
        returning."""
        self._forget(now_s)
        if key is not None and self._keys[key]:
            come_s = now_s + EARLY_S
            due = len(self._due) if retried else bisect_right(self._due, (come_s, 1 << 64))
            for index in range(due):
                due_s, its_key, later_s = self._due[index]
                if its_key == key and (retried or due_s + later_s <= come_s):
                    self._take(index)
                    self._kept_fraction += NEWEST_WEIGHT * (1 - self._kept_fraction)
                    return True
        return False

    def _take(self, index: int) -> None:
        key = self._due.pop(index)[1]
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]

    def _forget(self, now_s: float) -> None:
        while self._due and self._due[0][0] < now_s - LATE_S:
            self._take(0)
            self._kept_fraction -= NEWEST_WEIGHT * self._kept_fraction
