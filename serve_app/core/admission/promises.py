"""What the requests of each flow were promised, and how well that was kept."""

from dataclasses import dataclass, field

from serve_app.core.admission.fair_queue import MOST_FLOWS
from serve_app.core.admission.fairness import ANONYMOUS, Flow
from serve_app.core.admission.forecasts import Forecasts
from serve_app.core.admission.retry_reservations import RetryReservations


@dataclass(slots=True)
class FlowPromises:
    """Who was told when to come back, and when first tokens were to come."""

    reservations: RetryReservations = field(default_factory=RetryReservations)
    forecasts: Forecasts = field(default_factory=Forecasts)


@dataclass(slots=True)
class Promises:
    """By flow; of very many, those that came first are forgotten first."""

    _of: dict[str, FlowPromises] = field(default_factory=dict[str, FlowPromises])

    def of(self, flow: Flow = ANONYMOUS) -> FlowPromises:
        promises = self._of.get(flow.name)
        if promises is None:
            if len(self._of) >= MOST_FLOWS:
                del self._of[next(iter(self._of))]
            promises = self._of[flow.name] = FlowPromises()
        return promises
