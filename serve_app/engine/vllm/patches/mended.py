"""What vLLM's own handling of thoughts and repetition lacks, put around its classes.

They are handed in, so that this file does not import vLLM.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from serve_app.core.generation import GENERATION
from serve_app.core.reasoning.trace import ThoughtEnd

LOOK_EVERY_TOKENS = 16
# Of vLLM's `extra_args`, which reach all of its processes.
STOP_BEHIND, CALLS = "tierserve_stop_behind", "tierserve_calls"


def exact_parser(base: type[Any], message: Callable[..., Any]) -> type[Any]:
    """vLLM's parser of R1 models, for prompts that open the thought or close it: vLLM's counts no
    token of a thought that the prompt has opened, and takes an answer without a thought for one.
    A thought ends at the first id that ends it, whatever marks are written before and behind, so
    that a stream and a whole answer say the same. `message` makes a stream's delta."""

    class ExactParser(base):
        def extract_reasoning(
            self, model_output: str, request: Any
        ) -> tuple[str | None, str | None]:
            if _thought_is_off():
                return None, model_output
            at = _answer_at(model_output, self.end_token)
            thought = model_output[:at].removesuffix(self.end_token)
            return thought.removeprefix(self.start_token), model_output[at:] or None

        def extract_reasoning_streaming(
            self,
            previous_text: str,
            current_text: str,
            delta_text: str,
            previous_token_ids: Sequence[int],
            current_token_ids: Sequence[int],
            delta_token_ids: Sequence[int],
        ) -> Any:
            thought, content = delta_text, ""
            if self.end_token_id in delta_token_ids:
                at = self._end_at(delta_text, list(delta_token_ids))
                thought, content = delta_text[:at], delta_text[at + len(self.end_token) :]
            if not previous_text:
                thought = thought.removeprefix(self.start_token)
            if not thought and not content:
                return None
            return message(reasoning=thought or None, content=content or None)

        def _end_at(self, text: str, ids: list[int]) -> int:
            """Where the mark of this id stands among those that are spelt out before it."""
            at = text.find(self.end_token)
            if text.count(self.end_token) > 1:
                before = self.model_tokenizer.decode(ids[: ids.index(self.end_token_id)])
                for _ in range(before.count(self.end_token)):
                    at = text.find(self.end_token, at + 1)
            return at

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


def _answer_at(text: str, end: str) -> int:
    """Where the answer begins in a whole text; its length where it has none."""
    generation = GENERATION.get()
    if text.count(end) > 1 and generation is not None:
        for facts in generation.sequences.values():
            if facts.text == text:
                return facts.answer_at
    at = text.find(end)
    return len(text) if at < 0 else at + len(end)


def stopping_in_answers(
    update: Callable[..., Any], check: Callable[..., Any]
) -> Callable[..., Any]:
    """vLLM 0.32 looks for a client's stop strings in thoughts too (vllm#52393, #53066; to be
    removed with pull request #52486). Here they are looked for behind the id that ends the thought,
    and behind the blanks before the answer, which are the thought's form; and not inside of calls,
    whose text no client sees. `update` is that of vLLM's detokenizer, `check` what it looks
    with."""

    def update_within_answer(
        detokenizer: Any, new_token_ids: list[int], stop_terminated: bool
    ) -> str | None:
        everywhere = detokenizer.stop_behind is None and detokenizer.calls is None
        if not detokenizer.stop or everywhere:
            return update(detokenizer, new_token_ids, stop_terminated)
        for number, token in enumerate(new_token_ids, 1):
            last = stop_terminated and number == len(new_token_ids)
            if detokenizer.stop_behind is not None:
                found = _update_before_answer(detokenizer, token, last)
            elif _is_in_call(detokenizer):
                found = _update_without(detokenizer, token, last)
            else:
                found = update(detokenizer, [token], last)
            if found is not None:
                return found
        return None

    def _update_without(detokenizer: Any, token: int, last: bool) -> None:
        stop, detokenizer.stop = detokenizer.stop, []
        try:
            update(detokenizer, [token], last)
        finally:
            detokenizer.stop = stop

    def _update_before_answer(detokenizer: Any, token: int, last: bool) -> str | None:
        _update_without(detokenizer, token, last)
        stop, text = detokenizer.stop, detokenizer.output_text
        if token == detokenizer.stop_behind and detokenizer.answer_at is None:
            detokenizer.answer_at = len(text)
        begun = 0 if detokenizer.answer_at is None else len(text[detokenizer.answer_at :].lstrip())
        if not begun:
            return None
        detokenizer.stop_behind = None
        if detokenizer.num_output_tokens() <= detokenizer.min_tokens:
            return None
        found = check(
            output_text=text,
            new_char_count=begun,
            stop=stop,
            include_in_output=detokenizer.include_stop_str_in_output,
        )
        if found is None:
            return None
        if found[1] != -1:
            detokenizer.output_text = text[: found[1]]
        return found[0]

    return update_within_answer


def knowing_where_to_stop(initialize: Callable[..., None]) -> Callable[..., None]:
    """vLLM's detokenizer, which is initialized so, with the id behind which stop strings count."""

    def initialize_with_id(detokenizer: Any, request: Any) -> None:
        initialize(detokenizer, request)
        detokenizer.stop_behind = stop_id_of(request.sampling_params)
        detokenizer.calls = (request.sampling_params.extra_args or {}).get(CALLS)
        detokenizer.answer_at = None

    return initialize_with_id


def _is_in_call(detokenizer: Any) -> bool:
    if detokenizer.calls is None:
        return False
    begin, end = detokenizer.calls
    text: str = detokenizer.output_text[detokenizer.answer_at or 0 :]
    return text.rfind(begin) > text.rfind(end)


def stop_ids_in_answers(check_stop: Callable[[Any, int], bool]) -> Callable[[Any, int], bool]:
    """vLLM's scheduler, which ends a sequence at a client's stop ids, inside its thought too."""

    def check_stop_in_answer(request: Any, max_model_len: int) -> bool:
        params = request.sampling_params
        end_id, ids = stop_id_of(params), request.output_token_ids
        if (
            end_id is None
            or ids[-1] not in (params.stop_token_ids or ())
            or end_id in list(ids)[:-1]
        ):
            return check_stop(request, max_model_len)
        stop_token_ids, params.stop_token_ids = params.stop_token_ids, []
        try:
            return check_stop(request, max_model_len)
        finally:
            params.stop_token_ids = stop_token_ids

    return check_stop_in_answer


def stop_id_of(params: Any) -> int | None:
    """The id behind which the client's stops count; None: everywhere."""
    return (params.extra_args or {}).get(STOP_BEHIND)


def stop_outside_calls(params: Any, begin: str, end: str) -> None:
    """Have the client's stop strings count outside of what stands between these two."""
    params.extra_args = {**(params.extra_args or {}), CALLS: [begin, end]}


def stop_behind(params: Any, end_id: int | None) -> None:
    """Have the client's stops count behind this id only, or everywhere."""
    others = {key: value for key, value in (params.extra_args or {}).items() if key != STOP_BEHIND}
    params.extra_args = {**others, STOP_BEHIND: end_id} if end_id is not None else others or None


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
