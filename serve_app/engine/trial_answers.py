"""Trial answers of a running sequence: short greedy generations behind its reasoning so far, which
the engine finds in its prefix cache, beside the sequence itself."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.answer_policy import PolicyPlan
from serve_app.core.reasoning.answer_value import answer_value, balanced
from serve_app.core.reasoning.early_exit import is_stable, trial_is_due

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import EnginePrompt, RequestOutput, SamplingParams

    Outputs = AsyncGenerator[RequestOutput, None]

log = logging.getLogger(__name__)

# What a trial answer is begun with, behind the end of the reasoning.
OPENER = " The answer is \\boxed{"
# Why reasoning ends whose trial answers agree.
EARLY_EXIT = "early_exit"


@dataclass(slots=True)
class TrialAnswers:
    """Of one sequence; `suffix` closes its reasoning and begins an answer. One trial runs at a
    time. `values` are the answers until now; the reasoning ends for `reason` where they are
    `enough`."""

    generate: "Callable[..., Outputs]"
    generation: Generation
    plan: PolicyPlan
    prompt: "EnginePrompt"
    params: "SamplingParams"
    request_id: str
    options: dict[str, Any]
    suffix: Sequence[int]
    max_model_len: int
    values: list[str | None] = field(default_factory=list[str | None])
    enough: Callable[[Sequence[str | None]], bool] = is_stable
    reason: str = EARLY_EXIT
    _asked_at: int = 0
    _running: "asyncio.Task[None] | None" = None

    def decide(self, written: Sequence[int]) -> str | None:
        """At each result, with the sequence's ids so far: why the reasoning ends, or None. Begins
        the next trial where it is due, and raises what the last one has raised."""
        if self._running is not None:
            if not self._running.done():
                return None
            self._running.result()
            self._running = None
        if self.enough(self.values):
            return self.reason
        every = self.plan.trial_every_tokens
        if trial_is_due(len(written), asked_at=self._asked_at, every_tokens=every):
            self._begin(written)
        return None

    async def close(self) -> None:
        """Nobody waits for a trial any longer."""
        if self._running is not None:
            await end_unneeded(self._running, self.request_id)
            self._running = None

    def _begin(self, written: Sequence[int]) -> None:
        ids = [*self.prompt["prompt_token_ids"], *written, *self.suffix]
        self._asked_at = len(written)
        if len(ids) + self.plan.trial_tokens <= self.max_model_len:
            self._running = asyncio.ensure_future(self._ask(ids))

    async def _ask(self, ids: list[int]) -> None:
        prompt = {name: value for name, value in self.prompt.items() if name != "prompt"}
        prompt["prompt_token_ids"] = ids
        name = f"{self.request_id}-t{len(self.values)}"
        made = SequenceFacts()
        self.generation.unseen.append(made)
        self.generation.engine_ids.append(name)
        options = {**self.options, "reasoning_ended": True}
        text, content = "", None
        outputs = self.generate(prompt, trial_params(self.params, self.plan), name, **options)
        async with aclosing(outputs) as results:
            async for result in results:
                for output in result.outputs:
                    made.tokens += len(output.token_ids)
                    text += output.text
                if (content := balanced(text)) is not None:
                    break
        self.values.append((answer_value(content) or None) if content else None)


async def end_unneeded(task: "asyncio.Task[None]", request_id: str) -> None:
    """End what nobody waits for; what it has raised is logged."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (fault := task.exception()) is not None:
        details = {"request_id": request_id}
        log.warning("a trial answer has failed that nobody needs", exc_info=fault, extra=details)


def trial_params(params: "SamplingParams", plan: PolicyPlan) -> "SamplingParams":
    """Greedy ones, in the shape of these."""
    kind = type(params.output_kind)["DELTA"]
    return type(params)(temperature=0.0, max_tokens=plan.trial_tokens, output_kind=kind)
