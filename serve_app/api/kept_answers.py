"""What each replica said last, and how old that is: one that is late has not stopped to exist.

An answer is kept until its replica is gone, or has said nothing for so long that nobody should
believe it any more.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Said = TypeVar("Said")


@dataclass(frozen=True, slots=True)
class Kept(Generic[Said]):
    """`age_s`: since it came. `stale`: the replica has not answered the last question in time."""

    value: Said
    age_s: float = 0.0
    stale: bool = False


@dataclass(slots=True)
class KeptAnswers(Generic[Said]):
    """The answers of a tier's replicas to one question, each kept for `keep_s` at most."""

    keep_s: float
    clock_s: Callable[[], float] = time.monotonic
    _last: dict[str, tuple[Said, float]] = field(default_factory=dict[str, "tuple[Said, float]"])

    def take(self, replica: str, said: Said) -> None:
        """A replica has answered now, in time or not."""
        self._last[replica] = said, self.clock_s()

    def forget(self, replica: str) -> None:
        """It is dead."""
        self._last.pop(replica, None)

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forget those that are not among the tier's replicas any more."""
        for gone in self._last.keys() - set(replicas):
            del self._last[gone]

    def since(self, asked_s: float) -> list[Kept[Said]]:
        """All that are kept, in the order of the replicas' names. Stale are those that came before
        `asked_s` of the clock, when the question was put."""
        now_s = self.clock_s()
        for replica, (_, at_s) in [*self._last.items()]:
            if now_s - at_s > self.keep_s:
                del self._last[replica]
        return [
            Kept(said, now_s - at_s, at_s < asked_s)
            for _, (said, at_s) in sorted(self._last.items(), key=lambda kept: kept[0])
        ]
