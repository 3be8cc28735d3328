"""What is kept of each flow's past: who is due to retry, how well first tokens were forecast."""

from dataclasses import dataclass, field

from serve_app.core.admission.fair_queue import MOST_FLOWS
from serve_app.core.admission.fairness import ANONYMOUS, Flow
from serve_app.core.admission.forecasts import Forecasts
from serve_app.core.admission.retry_reservations import RetryReservations


@dataclass(slots=True)
class FlowHistory:
    """Of one flow."""

    reservations: RetryReservations = field(default_factory=RetryReservations)
    forecasts: Forecasts = field(default_factory=Forecasts)


@dataclass(slots=True)
class FlowHistories:
    """By flow; of very many, those that came first are forgotten first."""

    _of: dict[str, FlowHistory] = field(default_factory=dict[str, FlowHistory])

    def of(self, flow: Flow = ANONYMOUS) -> FlowHistory:
        history = self._of.get(flow.name)
        if history is None:
            if len(self._of) >= MOST_FLOWS:
                del self._of[next(iter(self._of))]
            history = self._of[flow.name] = FlowHistory()
        return history
