"""Who was refused with a Retry-After and is still expected, so that capacity is kept for them."""

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from typing import NamedTuple

# Clients retry no earlier than Retry-After says, but for rounding, and a little later.
EARLY_S = 0.05
LATE_S = 2.0
# About the last 50 reservations say how many of those who got a Retry-After retry at all.
NEWEST_WEIGHT = 0.02
# Of one flow: 6 MB.
MOST_DUE = 20_000
# In search of a free time.
MOST_LOOKED_AT = 1000
# Of all that are due within a time, evenly among them; the last one always.
MOST_DUE_POINTS = 32


class DueBy(NamedTuple):
    """So many retries are due by then."""

    in_s: float
    retries: int


@dataclass(slots=True)
class RetryReservations:
    """When refused clients are due to retry, so that capacity can be kept for them: times in
    order, each with the key of its request (a hash of body and sender), with how much later its
    client comes, whose Retry-After is in whole seconds, and with its `relative_work`."""

    # Of all together.
    work: float = 0.0
    _due: list[tuple[float, int, float, float]] = field(default_factory=list)
    # When the clients of a key come, by key.
    _comes_s: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    _kept_fraction: float = 1.0

    def __len__(self) -> int:
        return len(self._due)

    def add(
        self, key: int | None, due_s: float, later_s: float = 0.0, *, work: float = 1.0
    ) -> bool:
        """Remember that a request is due to retry at `due_s`, and comes so much later. False where
        so many are due that nothing is kept for it: a flood has no more than its part of memory,
        and its Retry-After grows no further."""
        if len(self._due) >= MOST_DUE:
            return False
        key = 0 if key is None else key
        insort(self._due, (due_s, key, later_s, work))
        self.work += work
        insort(self._comes_s.setdefault(key, []), due_s + later_s)
        return True

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

    def due_by(self, now_s: float, within_s: float) -> tuple[DueBy, ...]:
        """When those are due that are expected to come within so long, from now on: of each, or of
        thousands at `MOST_DUE_POINTS` places among them."""
        self._forget(now_s)
        if not self._due or self._due[0][0] >= now_s + within_s:
            return ()
        due = bisect_left(self._due, (now_s + within_s, 0))
        expected = round(due * self._kept_fraction)
        points = min(expected, MOST_DUE_POINTS)
        counts = (expected * point // points for point in range(1, points + 1))
        return tuple(
            DueBy(max(0.0, self._due[(count - 1) * due // expected][0] - now_s), count)
            for count in counts
        )

    def next_free_s(self, due_s: float, apart_s: float) -> float:
        """The first time from `due_s` on that is so far from all that is reserved, or less where
        few retry; behind all of it where the next so many are no farther apart."""
        apart_s *= self._kept_fraction
        first = bisect_left(self._due, (due_s - apart_s, 0))
        for index in range(first, min(len(self._due), first + MOST_LOOKED_AT)):
            other_s = self._due[index][0]
            if other_s >= due_s + apart_s:
                return due_s
            due_s = max(due_s, other_s + apart_s)
        return max(due_s, self._due[-1][0] + apart_s) if self._due else due_s

    def comes_at_s(self, key: int | None) -> float | None:
        """When the client of this request comes back, the first one of several; None where it was
        not refused here."""
        times = None if key is None else self._comes_s.get(key)
        return times[0] if times else None

    def redeem(self, key: int | None, now_s: float, *, retried: bool = False) -> bool:
        """Whether this request was refused here before and retries after its Retry-After, or
        earlier where it says itself that it is `retried`. One that was not refused is never
        returning."""
        self._forget(now_s)
        come_s, comes_s = now_s + EARLY_S, self.comes_at_s(key)
        if comes_s is not None and (retried or comes_s <= come_s):
            due = len(self._due) if retried else bisect_right(self._due, (come_s, 1 << 64))
            for index in range(due):
                due_s, its_key, later_s, _ = self._due[index]
                if its_key == key and (retried or due_s + later_s <= come_s):
                    self._take(index)
                    self._kept_fraction += NEWEST_WEIGHT * (1 - self._kept_fraction)
                    return True
        return False

    def _take(self, index: int) -> None:
        due_s, key, later_s, work = self._due.pop(index)
        # Rounding adds up, but not beyond the last one.
        self.work = self.work - work if self._due else 0.0
        times = self._comes_s[key]
        del times[bisect_left(times, due_s + later_s)]
        if not times:
            del self._comes_s[key]

    def _forget(self, now_s: float) -> None:
        while self._due and self._due[0][0] < now_s - LATE_S:
            self._take(0)
            self._kept_fraction -= NEWEST_WEIGHT * self._kept_fraction
