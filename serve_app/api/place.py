"""A request's place at the gate, what bounds the places, and the word that there is none."""

import asyncio
from dataclasses import dataclass

from serve_app.core.admission.admission import Admission


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
    # Of its prompt: an estimate until the engine has counted them.
    prompt_tokens: float = 0.0
    # The wait for its first token that was forecast as it came in; None: it did not wait.
    forecast_s: float | None = None
    prompt_counted: bool = False
    started_s: float | None = None
    first_token_s: float | None = None
    # How long its prompt was reckoned to take from its start on.
    reckoned_s: float = 0.0
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
    # What a lender's own requests are to keep.
    slo_ttft_s: float = 2.0
    slo_tpot_s: float = 0.1
    # The engine's KV pool; 0: not known, and not looked at.
    kv_tokens: int = 0


def new_future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()
