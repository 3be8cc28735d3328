"""A request's place at the gate, what bounds the places, and the word that there is none."""

import asyncio
from dataclasses import dataclass

from serve_app.core.admission import Admission


class Refused(Exception):
    """The gate has no place; `admission` says why and when to come back."""

    def __init__(self, admission: Admission, key: int | None, due_s: float) -> None:
        super().__init__(admission.reason)
        self.admission = admission
        self.key = key
        self.due_s = due_s


@dataclass(slots=True, eq=False)
class Place:
    """One request at the gate, by order of arrival. `granted` is done once its slots are held."""

    arrival: int
    sequences: int
    entered_s: float
    granted: asyncio.Future[None]
    work: float
    borrowed: bool = False
    max_new_tokens: int = 0
    started_s: float | None = None
    running_at_start: int = 0
    # Its slots are free again, whether or not its client has taken all of the answer.
    released_s: float | None = None

    @property
    def wait_s(self) -> float:
        return 0.0 if self.started_s is None else self.started_s - self.entered_s


@dataclass(slots=True)
class GateLimits:
    slots: int
    max_queued_requests: int
    max_wait_s: float
    batch_cost: float = 0.0
    lend_share: float = 0.0


def new_future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()
