"""vLLM 0.32 takes a last message of the assistant for a turn that is over, at Anthropic's route.

Anthropic's clients begin the answer with it. To be removed when `AnthropicMessagesRequest` is
converted with `continue_final_message`.
"""

from collections.abc import Callable
from typing import Any


def continuing_prefill(convert: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's conversion of a request of Anthropic's to one of chat completions, with a last message
    of the assistant that has text, and no calls, as the beginning of the answer."""

    def convert_with_prefill(*args: Any, **options: Any) -> Any:
        request = convert(*args, **options)
        last = request.messages[-1] if request.messages else {}
        content = last.get("content")
        if last.get("role") == "assistant" and content and not last.get("tool_calls"):
            request.add_generation_prompt, request.continue_final_message = False, True
        return request

    return convert_with_prefill
