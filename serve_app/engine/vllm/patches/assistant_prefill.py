"""A last message of the assistant begins the answer at Anthropic's route, as its clients mean it.

vLLM takes it for a turn that is over.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest


def continuing_prefill(
    convert: "Callable[..., ChatCompletionRequest]",
) -> "Callable[..., ChatCompletionRequest]":
    """vLLM's conversion of a request of Anthropic's to one of chat completions, with a last message
    of the assistant that has text, and no calls, as the beginning of the answer."""

    def convert_with_prefill(*args: Any, **options: Any) -> "ChatCompletionRequest":
        request = convert(*args, **options)
        last: Any = request.messages[-1] if request.messages else {}
        content = last.get("content")
        if last.get("role") == "assistant" and content and not last.get("tool_calls"):
            request.add_generation_prompt, request.continue_final_message = False, True
        return request

    return convert_with_prefill


def _install() -> None:
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages

    replace(
        AnthropicServingMessages,
        "to_chat_completion_request",
        continuing_prefill,
        as_=staticmethod,
    )


_REQUEST = "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest"
PATCH = Patch(
    name="assistant_prefill",
    versions=">=0.32,<0.33",
    upstream="vllm/entrypoints/anthropic/serving.py, "
    "AnthropicServingMessages.to_chat_completion_request; reported as "
    "https://github.com/BerriAI/litellm/issues/28580",
    remove_when="AnthropicMessagesRequest is converted with `continue_final_message`",
    apply=_install,
    replaces=(
        "vllm.entrypoints.anthropic.serving:AnthropicServingMessages.to_chat_completion_request",
    ),
    relies_on=(
        f"{_REQUEST}.messages",
        f"{_REQUEST}.add_generation_prompt",
        f"{_REQUEST}.continue_final_message",
    ),
)
