"""One request's way through the simulated fleet."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serve_app.api.gate import QueueEntry
from serve_app.core.admission.fairness import ANONYMOUS, Flow
from serve_app.core.tiers import Tier

if TYPE_CHECKING:
    from loadtest.simulation.replica import SimulatedReplica


@dataclass(slots=True, eq=False)
class SimRequest:
    """`arrival_s` is when the client first asked. `entry` is the replica that HAProxy chose,
    `runner` the one whose gate holds it; `borrowed`: that is one of the other tier.

    For the engine: `pool_tokens` are in the KV pool when its prefill ends, `prefill_left` of them
    still to come, `tokens_left` follow.
    """

    number: int
    tier: Tier
    arrival_s: float
    prompt_tokens: int
    new_tokens: int
    limit: int
    flow: Flow = ANONYMOUS
    attempts: int = 0
    entry: "SimulatedReplica | None" = None
    runner: "SimulatedReplica | None" = None
    forwarded: bool = False
    borrowed: bool = False
    place: QueueEntry | None = None
    at_gate: AbstractContextManager[QueueEntry] | None = None
    started_s: float | None = None
    first_token_s: float | None = None
    in_pool: bool = False
    pool_tokens: int = field(init=False)
    prefill_left: int = field(init=False)
    tokens_left: int = field(init=False)

    def __post_init__(self) -> None:
        self.pool_tokens = self.prefill_left = self.prompt_tokens
        self.tokens_left = self.new_tokens
