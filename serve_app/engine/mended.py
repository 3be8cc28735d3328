"""What vLLM's own handling of thoughts and repetition lacks, put around its classes.

They are handed in, so that this file does not import vLLM.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from serve_app.core.generation import GENERATION
from serve_app.core.thought import ThoughtEnd

LOOK_EVERY_TOKENS = 16


def exact_parser(base: type[Any]) -> type[Any]:
    """vLLM's parser of R1 models, for prompts that open the thought or close it: vLLM's counts no
    token of a thought that the prompt has opened, and takes an answer without a thought for one."""

    class ExactParser(base):
        def extract_reasoning(
            self, model_output: str, request: Any
        ) -> tuple[str | None, str | None]:
            if _thought_is_off():
                return None, model_output
            return super().extract_reasoning(model_output, request)

        def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
            return _thought_is_off() or super().is_reasoning_end(input_ids)

        def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
            if _thought_is_off():
                return 0
            ids = list(token_ids)
            if self.start_token_id in ids:
                ids = ids[ids.index(self.start_token_id) + 1 :]
            return ids.index(self.end_token_id) if self.end_token_id in ids else len(ids)

    return ExactParser


def _thought_is_off() -> bool:
    """All sequences of a request have one prompt."""
    generation = GENERATION.get()
    if generation is None or not generation.sequences:
        return False
    thought = next(iter(generation.sequences.values())).thought
    return thought is not None and thought.end is ThoughtEnd.OFF


def mended_budget(base: type[Any]) -> type[Any]:
    """vLLM 0.32's ThinkingBudgetStateHolder (model runner V1, which the CPU has) looks for the
    whole closing phrase only: a thought that the model closes by itself goes on being counted, and
    the phrase is then written into the answer. Runner V2 looks for the mark alone, as is done
    here."""

    class MendedBudget(base):
        def __init__(self, reasoning_config: Any, *args: Any, **options: Any) -> None:
            super().__init__(reasoning_config, *args, **options)
            natural = reasoning_config and reasoning_config.natural_reasoning_end_token_ids
            self._natural_end = natural[-1] if natural else None

        def _update_think_state(self, state: dict[str, Any]) -> None:
            if state["thinking_token_budget"] == -1:
                return
            new_ids = state["output_tok_ids"][state.setdefault("looked_at", 0) :]
            state["looked_at"] = len(state["output_tok_ids"])
            if self._natural_end in new_ids:
                # Its own end or the forced one: there is no second thought.
                state["thinking_token_budget"] = -1
                state["in_end"], state["force_index"] = False, []
                return
            super()._update_think_state(state)

    return MendedBudget


def looked_for_rarely(check: Callable[[Sequence[int], Any], bool]) -> Callable[..., bool]:
    """vLLM looks for a repetition after each token, at half a microsecond for each length of it:
    with 64 sequences as much as a tenth of a step. An endless one is there a few tokens later."""

    def check_at_times(token_ids: Sequence[int], params: Any) -> bool:
        return len(token_ids) % LOOK_EVERY_TOKENS == 0 and check(token_ids, params)

    return check_at_times


def taking_turns(engine_core: Any) -> Callable[[], Awaitable[Any]]:
    """vLLM 0.32's client of its engine hands over the outputs of a step without letting the event
    loop go where the next ones are there already. A step that takes longer to unpack than to
    compute, as with 20 log probabilities of each of 32 tokens, is always behind: the loop was held
    for up to 3 s, until the engine had finished. To be removed when `output_handler` yields."""
    get_output = engine_core.get_output_async

    async def get_output_in_turn() -> Any:
        waiting = engine_core.outputs_queue
        if waiting is not None and not waiting.empty():
            await asyncio.sleep(0)
        return await get_output()

    return get_output_in_turn


def rewound_on_cpu(keep_books: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM 0.32 takes back the sample of a prompt that is only partly read by the offset of the
    request's generator, which a CPU's has not: the engine died of a request with a seed. Nothing
    has been sampled for good then, so the generator begins anew."""

    def keep_books_with_rewound(runner: Any, *args: Any, **options: Any) -> Any:
        batch = runner.input_batch
        partly_read = runner.discard_request_mask.np[: batch.num_reqs].nonzero()[0]
        aside = {index: batch.generators.pop(index, None) for index in map(int, partly_read)}
        try:
            return keep_books(runner, *args, **options)
        finally:
            for index, generator in aside.items():
                if generator is not None:
                    batch.generators[index] = generator.manual_seed(generator.initial_seed())

    return keep_books_with_rewound
