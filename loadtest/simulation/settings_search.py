"""The best setting of a policy in hindsight, without trying all of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Generic, Protocol, TypeVar

Setting = Mapping[str, float]
# So near to each other two shares of good requests are equal: a thousandth.
EQUAL = 0.001


class Judged(Protocol):
    """`goodput`: share of all arrivals that met their SLO."""

    @property
    def goodput(self) -> float: ...

    @property
    def gpu_hours(self) -> float: ...


Found = TypeVar("Found", bound=Judged)


@dataclass(frozen=True, slots=True)
class Best(Generic[Found]):
    """`tried` settings it was chosen from."""

    setting: Setting
    found: Found
    tried: int


def equal_to(goodput: float) -> float:
    """What is at least as good as this, but for `EQUAL`."""
    return max(0.0, goodput - EQUAL)


def shown_setting(name: str, setting: Mapping[str, Any], needed: float) -> Mapping[str, Any]:
    """For a reader: a plan's counts are long, and what they had to reach is short."""
    return {"goodput_at_least": needed} if name == "clairvoyant" else setting


def rank(found: Judged, needed: float) -> tuple[float, float, float]:
    """The lower the better: the cheapest whose goodput is at least `needed`; where none has it, the
    one with the best goodput."""
    if found.goodput >= needed:
        return 0.0, found.gpu_hours, -found.goodput
    return 1.0, -found.goodput, found.gpu_hours


def best_setting(
    axes: Mapping[str, Sequence[float]],
    coarse: Mapping[str, Sequence[float]],
    play: Callable[[Setting, Found | None], Found | None],
    needed: float,
) -> Best[Found]:
    """`play` gets the best that was found so far, and may give up what will not be better: None.

    First the `coarse` grid; then from its best setting to the best of its neighbours on the
    `axes`, one step on one axis, until none is better. A better setting that is nobody's neighbour
    is missed: of Ray's 120 settings it plays some 25."""
    seen: set[tuple[float, ...]] = set()
    best: tuple[tuple[float, ...], Found] | None = None
    at: tuple[float, ...] | None = None
    settings = product(*(coarse[name] for name in axes))
    while best is None or best[0] != at:
        at = None if best is None else best[0]
        for setting in settings:
            if setting in seen:
                continue
            seen.add(setting)
            found = play(dict(zip(axes, setting, strict=True)), None if best is None else best[1])
            if found is not None and (best is None or rank(found, needed) < rank(best[1], needed)):
                best = setting, found
        if best is None:
            raise ValueError("no setting was played to its end")
        settings = _neighbours(best[0], list(axes.values()))
    return Best(dict(zip(axes, best[0], strict=True)), best[1], len(seen))


def _neighbours(
    setting: tuple[float, ...], axes: Sequence[Sequence[float]]
) -> Iterable[tuple[float, ...]]:
    for number, values in enumerate(axes):
        at = values.index(setting[number])
        for beside in (at - 1, at + 1):
            if 0 <= beside < len(values):
                yield (*setting[:number], values[beside], *setting[number + 1 :])
