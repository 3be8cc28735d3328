"""One request at the gate: what is known of it, and its refusal."""

import asyncio
import math
from dataclasses import dataclass

from serve_app.core.admission.admission import Admission
from serve_app.core.admission.fairness import ANONYMOUS, Flow


@dataclass(slots=True, eq=False)
class QueueEntry:
    """One request at the gate, by order of arrival. `granted` is done once it has its slots, and
    `work_s` is what it is expected to take of the GPU."""

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
    flow: Flow = ANONYMOUS
    # Another replica has begun it: it goes before all that have nothing yet.
    resumed: bool = False
    work_s: float = 0.0
    # When it has to start at the latest, by the gate's clock: for its deadline, or for the longest
    # wait of the tier.
    latest_start_s: float = math.inf
    # Sequences that began before it although it was at the head.
    overtaken: int = 0
    # Kept by the queue.
    charge_ns: int = 0
    mark_ns: int = 0
    place: float = 0.0
    passed: int = 0
    prompt_counted: bool = False
    started_s: float | None = None
    # From its coming until its start.
    wait_s: float = 0.0
    first_token_s: float | None = None
    # How long its prompt was reckoned to take from its start on.
    reckoned_s: float = 0.0
    running_at_start: int = 0
    # What a stream got meanwhile; known when its slots are free again.
    ran_tokens: float = 0.0
    # Its slots are free again, whether or not its client has taken all of the answer.
    released_s: float | None = None


class GateFullError(Exception):
    """The gate refuses the request; `admission` says why and when to retry, `work` how large a part
    of a whole one it is."""

    def __init__(
        self, admission: Admission, key: int | None, due_s: float, flow: Flow, work: float = 1.0
    ) -> None:
        super().__init__(admission.reason)
        self.admission = admission
        self.key = key
        self.due_s = due_s
        self.flow = flow
        self.work = work
