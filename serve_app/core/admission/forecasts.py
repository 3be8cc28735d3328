"""How far forecasts of first tokens were off, which is the margin of the next ones."""

from bisect import insort
from collections import deque
from dataclasses import dataclass, field

# Of a hundred forecasts one may fall short.
COVERED_FRACTION = 0.99
# They are forgotten after a while: the load has changed.
MOST_FORECASTS, KEPT_S = 200, 200.0
# With fewer, a forecast is taken to fall this much short.
FEW_FORECASTS, DERIVED_MARGIN = 20, 1.25
# What falls short by more is no chance, and a margin no remedy.
MOST_MARGIN = 2.0


@dataclass(slots=True)
class Forecasts:
    """How well the gate has forecast first tokens, for the margin that it allows itself: the ratios
    of waits to what was forecast, of requests that waited."""

    _ratios: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])
    _ranked: list[float] = field(default_factory=list[float])

    def observe(self, *, now_s: float, forecast_s: float, took_s: float) -> None:
        """A request that waited has its first token."""
        if len(self._ratios) == MOST_FORECASTS:
            self._forget_one()
        ratio = min(took_s / forecast_s, MOST_MARGIN)
        self._ratios.append((now_s, ratio))
        insort(self._ranked, ratio)

    def margin(self, now_s: float) -> float:
        """Forecasts times this fall short once in a hundred; at least 1."""
        while self._ratios and self._ratios[0][0] < now_s - KEPT_S:
            self._forget_one()
        ranked = self._ranked
        least = DERIVED_MARGIN if len(ranked) < FEW_FORECASTS else 1.0
        if not ranked:
            return least
        return max(least, ranked[min(len(ranked) - 1, int(COVERED_FRACTION * len(ranked)))])

    def _forget_one(self) -> None:
        self._ranked.remove(self._ratios.popleft()[1])
