"""How often a request is continued, and when it is given up."""

from dataclasses import dataclass

# A replica that dies so soon after it began may have died of the request.
QUICK_S = 5.0
MOST_QUICK = 2


@dataclass(slots=True)
class Losses:
    """The replicas that were lost under one request, of which it survives `max_times`."""

    max_times: int
    count: int = 0
    quick: int = 0

    def add(self, lived_s: float, replicas: int = 1) -> str | None:
        """Count one that had run the request for so long, or more of them. Why it is not to be
        continued, as one word; None where it is."""
        self.count += replicas
        self.quick += replicas if lived_s < QUICK_S else 0
        if self.quick >= MOST_QUICK:
            return "quick_deaths"
        return "too_often" if self.count > self.max_times else None
