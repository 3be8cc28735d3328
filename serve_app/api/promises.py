"""What refused clients were told: when to come back, so that room can be kept for them."""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass, field

# Clients come back no earlier than they were told, but for rounding, and a little later.
EARLY_S = 0.05
LATE_S = 2.0
# About the last 50 promises say how many of those who were told a time come back at all.
NEWEST_WEIGHT = 0.02


@dataclass(slots=True)
class Promises:
    """Promised times in order, each with the key of its request (a hash of body and sender)."""

    _due: list[tuple[float, int]] = field(default_factory=list)
    _keys: Counter[int] = field(default_factory=Counter)
    _kept_share: float = 1.0

    def add(self, key: int | None, due_s: float) -> None:
        """Remember that a request was told to come back at `due_s`."""
        key = 0 if key is None else key
        insort(self._due, (due_s, key))
        self._keys[key] += 1

    def withdraw(self, key: int | None, due_s: float) -> None:
        """Forget one promise, unless it is redeemed or expired already."""
        promise = (due_s, 0 if key is None else key)
        index = bisect_left(self._due, promise)
        if index < len(self._due) and self._due[index] == promise:
            self._take(index)

    def outstanding(self, now_s: float) -> int:
        """How many are still expected to come, by the share that came so far."""
        self._forget(now_s)
        return round(len(self._due) * self._kept_share)

    def redeem(self, key: int | None, now_s: float, *, retried: bool = False) -> bool:
        """Whether this request was refused here before and comes when it was told to, or earlier
        where it says itself that it is `retried`. Nobody who was not refused is returning."""
        self._forget(now_s)
        if key is not None and self._keys[key]:
            due = len(self._due) if retried else bisect_right(self._due, (now_s + EARLY_S, 1 << 64))
            for index in range(due):
                if self._due[index][1] == key:
                    self._take(index)
                    self._kept_share += NEWEST_WEIGHT * (1 - self._kept_share)
                    return True
        return False

    def _take(self, index: int) -> None:
        _, key = self._due.pop(index)
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]

    def _forget(self, now_s: float) -> None:
        while self._due and self._due[0][0] < now_s - LATE_S:
            self._take(0)
            self._kept_share -= NEWEST_WEIGHT * self._kept_share
