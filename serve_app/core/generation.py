"""What the edge asks of the engine for one request, and what the engine tells of it, beside HTTP.

vLLM's application stands between the two and knows neither, so a context variable carries it: each
request is handled in a context of its own.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field

from serve_app.core.thinking import ThinkingPlan
from serve_app.core.thought import ThoughtTrace


@dataclass(slots=True)
class SequenceFacts:
    """One answer of a request. `thought` is None where the model does not think; `repeated`: ended
    because it repeated itself; `closed`: the JSON that it is was closed for the model."""

    thought: ThoughtTrace | None = None
    repeated: bool = False
    closed: bool = False


@dataclass(slots=True)
class Generation:
    """`plan` is None for what is generated as it is asked for. `sequences` by the answer's index
    grows as the engine tells of them."""

    plan: ThinkingPlan | None = None
    stop_repetition: bool = False
    sequences: dict[int, SequenceFacts] = field(default_factory=dict[int, SequenceFacts])


GENERATION: ContextVar[Generation | None] = ContextVar("GENERATION", default=None)
