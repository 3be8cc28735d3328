"""A client's stop strings, looked for in the answer and not in its reasoning or calls.

R1's reasoning is full of line ends, the commonest of them, and no client sees the text of a call.
Of ids that come together, as from accepted drafts, none counts behind the one that stops.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from serve_app.engine.vllm.patches.patch import Patch, replace
from serve_app.engine.vllm.stop_scope import call_marks_of, stop_id_of

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer as Detokenizer

    class ScopedDetokenizer(Detokenizer):
        """vLLM's, with what `with_stop_scope` adds: the id behind which stop strings count, the
        marks of a call, and where in the text the answer begins, once it has."""

        stop_behind: int | None
        calls: list[str] | None
        answer_at: int | None


class _Request(Protocol):
    sampling_params: "SamplingParams"


def with_stop_scope(initialize: Callable[..., None]) -> Callable[..., None]:
    """vLLM's detokenizer, which is initialized so, with the scope of its request's stop strings."""

    def initialize_with_scope(detokenizer: "ScopedDetokenizer", request: _Request) -> None:
        initialize(detokenizer, request)
        detokenizer.stop_behind = stop_id_of(request.sampling_params)
        detokenizer.calls = call_marks_of(request.sampling_params)
        detokenizer.answer_at = None

    return initialize_with_scope


def stopping_in_answers(
    update: Callable[..., str | None], check: Callable[..., tuple[str, int] | None]
) -> Callable[..., str | None]:
    """vLLM's detokenizer, whose `update` looks with `check`: behind the id that ends the reasoning,
    and behind the blanks before the answer, which are the reasoning's form; and not inside of
    calls."""

    def update_within_answer(
        detokenizer: "ScopedDetokenizer", new_token_ids: list[int], stop_terminated: bool
    ) -> str | None:
        everywhere = detokenizer.stop_behind is None and detokenizer.calls is None
        if not detokenizer.stop or (everywhere and len(new_token_ids) == 1):
            return update(detokenizer, new_token_ids, stop_terminated)
        for number, token in enumerate(new_token_ids, 1):
            last = stop_terminated and number == len(new_token_ids)
            if detokenizer.stop_behind is not None:
                found = update_before_answer(detokenizer, token, last)
            elif _is_in_call(detokenizer):
                found = update_without_stops(detokenizer, token, last)
            else:
                found = update(detokenizer, [token], last)
            if found is not None:
                # vLLM's output has the rest of the list.
                del new_token_ids[number:]
                return found
        return None

    def update_without_stops(detokenizer: "ScopedDetokenizer", token: int, last: bool) -> None:
        stop, detokenizer.stop = detokenizer.stop, []
        try:
            update(detokenizer, [token], last)
        finally:
            detokenizer.stop = stop

    def update_before_answer(
        detokenizer: "ScopedDetokenizer", token: int, last: bool
    ) -> str | None:
        update_without_stops(detokenizer, token, last)
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


def _is_in_call(detokenizer: "ScopedDetokenizer") -> bool:
    if detokenizer.calls is None:
        return False
    begin, end = detokenizer.calls
    text = detokenizer.output_text[detokenizer.answer_at or 0 :]
    return text.rfind(begin) > text.rfind(end)


def _install() -> None:
    from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer, check_stop_strings

    def stopping(update: Callable[..., Any]) -> Callable[..., Any]:
        return stopping_in_answers(update, check_stop_strings)

    replace(BaseIncrementalDetokenizer, "__init__", with_stop_scope)
    replace(BaseIncrementalDetokenizer, "update", stopping)


_MODULE = "vllm.v1.engine.detokenizer"
_CLASS = f"{_MODULE}:BaseIncrementalDetokenizer"
PATCH = Patch(
    name="stop_strings",
    versions=">=0.32,<0.33",
    upstream="https://github.com/vllm-project/vllm/issues/52393, "
    "https://github.com/vllm-project/vllm/issues/53066",
    remove_when="a release has https://github.com/vllm-project/vllm/pull/52486, and looks for no "
    "stop string inside of a call",
    apply=_install,
    replaces=(f"{_CLASS}.__init__", f"{_CLASS}.update", f"{_MODULE}:check_stop_strings"),
    relies_on=tuple(
        f"{_CLASS}.{name}"
        for name in (
            "stop",
            "output_text",
            "min_tokens",
            "num_output_tokens",
            "include_stop_str_in_output",
        )
    ),
)
