"""What the edge asks of the engine for one request, and what the engine reports of it, beside HTTP.

vLLM's application stands between the two and knows neither, so a context variable carries it: each
request is handled in a context of its own.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from serve_app.core.reasoning.answer_policy import PolicyPlan
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.reasoning.deadline import RunningDeadline
from serve_app.core.reasoning.trace import ThoughtTrace
from serve_app.core.reasoning.vote import Verdict
from serve_app.core.replay.journal import Journal

# Asked with a sequence's index among the request's and its tokens so far, at each result of the
# engine inside its reasoning and before its budget is spent; says why the reasoning ends here, in a
# word for the client, or None. It decides at once: the engine's results wait for it.
CloseReasoning = Callable[[int, int], str | None]


@dataclass(slots=True)
class SequenceFacts:
    """One answer of a request, of so many `tokens` until now. `thought` is None where the model
    does not think; `repeated`: ended because it repeated itself; `closed`: the JSON that it is was
    closed for the model; `cut`: its limit has ended it, or its time (`cut_in_time`). `text` is None
    for a stream; the answer begins in it at `answer_at`."""

    thought: ThoughtTrace | None = None
    repeated: bool = False
    closed: bool = False
    cut: bool = False
    cut_in_time: bool = False
    text: str | None = None
    answer_at: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Generation:
    """`plan` is None for what is generated as it is asked for. `sequences` by the answer's index
    grows as the engine reports them. `structure_field` is the request's field that binds the
    answer to a grammar, for an error to name."""

    plan: ThinkingPlan | None = None
    stop_repetition: bool = False
    structure_field: str | None = None
    sequences: dict[int, SequenceFacts] = field(default_factory=dict[int, SequenceFacts])
    # Made for it, and no part of what its client gets: trial answers, and the samples of a vote
    # until it is decided, then the others.
    unseen: list[SequenceFacts] = field(default_factory=list[SequenceFacts])
    # Of all its prompts that the engine was asked to read; each counts once.
    prompt_tokens: int = 0
    # The ids under which the engine was asked for it, each turn's.
    engine_ids: list[str] = field(default_factory=list[str])
    # Prompts are found in the prefix cache by requests of the same salt only; None: by all.
    cache_salt: str | None = None
    # The client's, of which the ids in its events are made; None: the engine's own id of it.
    request_id: str | None = None
    # What other replicas have done for it, and what this one does; None: nobody follows it.
    journal: Journal | None = None
    # Whether a sequence's reasoning is to be closed now, and why; None: it never is. The sequences
    # of such a request run each for itself.
    close_reasoning: CloseReasoning | None = None
    # By when its answer is to be complete; None: it may take its time. Set with `close_reasoning`.
    time: RunningDeadline | None = None
    # How its tokens are spent on the answer; None: its reasoning, then its answer.
    policy: PolicyPlan | None = None
    # The direct answer of a pair, among `unseen` until it is confirmed and becomes the answer.
    direct: SequenceFacts | None = None
    # Of a vote that is decided, and what its others could still have had of their limits.
    verdict: Verdict | None = None
    saved_tokens: int = 0
    # Told once the engine knows its prompts, in tokens of all of them, and once it has read them.
    on_prompt: Callable[[int], None] = lambda _: None
    on_first_token: Callable[[], None] = lambda: None


GENERATION: ContextVar[Generation | None] = ContextVar("GENERATION", default=None)
