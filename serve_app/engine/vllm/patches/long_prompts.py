"""Prompts that are too long, refused before all of their text is tokenized.

vLLM tokenizes a prompt to its end, in the one thread that everybody's prompts pass, and only then
finds that it does not fit: 6 MB took 21 s. Here the begin of a long text is tokenized first. A
text's tokens are about those of its begin and its rest together, so when the begin alone has more
than the context holds, so has the whole.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm.renderers.base import BaseRenderer
    from vllm.renderers.params import TokenizeParams

# A begin may end inside a word, which then has some tokens more than in the whole.
CUT_TOKENS = 32
# The first begin, in characters a token of the context; each further one is so many times as long.
FIRST_CHARS_PER_TOKEN = 4
GROWTH = 4
# A text may be counted, or truncated, that fits several contexts.
CONTEXTS = 4


def fits_by_its_begin(
    text: str, most_tokens: int, count_tokens: Callable[[str], int]
) -> tuple[bool, int]:
    """Whether `text` may have at most `most_tokens` tokens, and how many its longest begin has that
    was counted; (True, 0) for a text that is short anyway. Counts no more than a multiple of
    `most_tokens`, or a third of the text."""
    size = most_tokens * FIRST_CHARS_PER_TOKEN
    tokens = 0
    while size < len(text):
        tokens = count_tokens(text[:size])
        if tokens > most_tokens + CUT_TOKENS:
            return False, tokens
        size *= GROWTH
    return True, tokens


def refusing_long_prompts(
    tokenize: Callable[[Any, Any], Any],
    count_tokens: Callable[[str], int],
    context_tokens: int,
    contexts: int,
    refusal: Callable[[str], Exception],
) -> Callable[[Any, Any], Any]:
    """vLLM's `_tokenize_prompt(prompt, params)`, with such texts refused. Where `params` has no
    limit, as for `/tokenize`, or the prompt is to be truncated, it is that of so many
    `contexts`."""

    def tokenize_within(prompt: Any, params: "TokenizeParams") -> Any:
        text = prompt.get("prompt") if isinstance(prompt, dict) else None
        if isinstance(text, str):
            most = params.max_total_tokens
            if most is None or params.truncate_prompt_tokens is not None:
                most = contexts * context_tokens
            fits, tokens = fits_by_its_begin(text, most, count_tokens)
            if not fits:
                raise refusal(
                    f"The prompt has more than {tokens - CUT_TOKENS:,} tokens; at most {most:,} "
                    "are taken here. Shorten it."
                )
        return tokenize(prompt, params)

    return tokenize_within


def _install(renderer: "BaseRenderer") -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.utils.async_utils import make_async

    tokenizer: Any = renderer.get_tokenizer()

    def refusing(tokenize: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        return refusing_long_prompts(
            tokenize,
            lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
            renderer.model_config.max_model_len,
            CONTEXTS,
            lambda message: VLLMValidationError(message, parameter="prompt"),
        )

    replace(renderer, "_tokenize_prompt", refusing)
    renderer._tokenize_prompt_async = make_async(
        renderer._tokenize_prompt, executor=renderer._executor
    )


_RENDERER = "vllm.renderers.base:BaseRenderer"
PATCH = Patch(
    name="long_prompts",
    versions=">=0.32,<0.33",
    upstream="vllm/renderers/base.py, BaseRenderer._tokenize_prompt",
    remove_when="vLLM refuses a prompt that is too long before it has tokenized all of it",
    apply=_install,
    replaces=(
        f"{_RENDERER}._tokenize_prompt",
        "vllm.utils.async_utils:make_async",
        "vllm.exceptions:VLLMValidationError",
    ),
    relies_on=(
        f"{_RENDERER}._tokenize_prompt_async",
        f"{_RENDERER}._executor",
        f"{_RENDERER}.get_tokenizer",
        f"{_RENDERER}.model_config",
        "vllm.renderers.params:TokenizeParams.max_total_tokens",
        "vllm.renderers.params:TokenizeParams.truncate_prompt_tokens",
    ),
)
