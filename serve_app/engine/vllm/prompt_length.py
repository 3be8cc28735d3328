"""Prompts that are too long, refused before all of their text is tokenized.

vLLM tokenizes a prompt to its end, in the one thread that everybody's prompts pass, and only then
finds that it does not fit: 6 MB took 21 s. Here the begin of a long text is tokenized first. A
text's tokens are about those of its begin and its rest together, so when the begin alone has more
than the context holds, so has the whole.

vLLM's renderer is handed in, so that this file does not import vLLM.
"""

from collections.abc import Callable
from typing import Any

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

    def tokenize_within(prompt: Any, params: Any) -> Any:
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
