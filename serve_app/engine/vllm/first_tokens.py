"""Which prompts vLLM has read. Its results do not show it: a whole answer comes at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serve_app.core.generation import Generation

if TYPE_CHECKING:
    from vllm.v1.engine.output_processor import RequestState


@dataclass(slots=True)
class _Prompts:
    """Of one request. `left`: those that are not read yet, and whether the engine has had them."""

    tokens: int = 0
    left: dict[str, bool] = field(default_factory=dict[str, bool])


@dataclass(slots=True)
class FirstTokens:
    """`states` are vLLM's of its sequences, by its own ids, and `ids` those ids by a request's:
    `request_states` and `external_req_ids` of its output processor."""

    states: "Mapping[str, RequestState]"
    ids: Mapping[str, Sequence[str]]
    _requests: dict[int, tuple[Generation, _Prompts]] = field(
        default_factory=dict[int, tuple[Generation, _Prompts]]
    )

    def expect(self, generation: Generation, request_id: str, prompt_tokens: int) -> None:
        """The engine is about to be asked for this prompt of the request; there may be more."""
        _, prompts = self._requests.setdefault(id(generation), (generation, _Prompts()))
        prompts.tokens += prompt_tokens
        prompts.left[request_id] = False
        generation.on_prompt(prompts.tokens)

    def forget(self, generation: Generation, request_id: str) -> None:
        """The engine has ended it, or was never asked."""
        known = self._requests.get(id(generation))
        if known is not None and known[1].left.pop(request_id, None) is not None:
            self._report(*known)

    def look(self) -> None:
        """After each step: report those whose prompts are read. Few are not at a time."""
        for generation, prompts in list(self._requests.values()):
            for request_id, seen in list(prompts.left.items()):
                ids = self.ids.get(request_id)
                if ids:
                    prompts.left[request_id] = True
                if (seen and not ids) or any(self._is_read(each) for each in ids or ()):
                    del prompts.left[request_id]
            self._report(generation, prompts)

    def _report(self, generation: Generation, prompts: _Prompts) -> None:
        if not prompts.left:
            self._requests.pop(id(generation), None)
            generation.on_first_token()

    def _is_read(self, engine_id: str) -> bool:
        state = self.states.get(engine_id)
        return state is not None and not state.is_prefilling
