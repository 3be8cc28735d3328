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


class FlowHistories(dict[str, FlowHistory]):
    """By the flow's name, of those that were refused or had to wait. Of very many, those that came
    first are forgotten first."""

    def of(self, flow: Flow = ANONYMOUS) -> FlowHistory:
        """Begun if there is none yet."""
        history = self.get(flow.name)
        if history is None:
            if len(self) >= MOST_FLOWS:
                del self[next(iter(self))]
            history = self[flow.name] = FlowHistory()
        return history
