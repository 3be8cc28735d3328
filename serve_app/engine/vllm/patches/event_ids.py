"""vLLM's random ids in the events of an answer, made of the request (`engine/event_ids.py`).

Those that vLLM gives to requests inside its engine stay random: nobody else may have them.
"""

import sys
import uuid
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from serve_app.engine.event_ids import EVENT_IDS
from serve_app.engine.vllm.patches.patch import Patch, replace

# Wherever below these a module makes ids, they are those of events.
PACKAGES = (
    "vllm.entrypoints.openai.",
    "vllm.parser.",
    "vllm.renderers.",
    "vllm.tool_parsers.",
)
# As many hexadecimal digits as vLLM's.
DIGITS = 16


def of_the_request(random_uuid: Callable[[], str]) -> Callable[[], str]:
    """vLLM's `random_uuid`, which in a request is made of it."""

    def request_uuid() -> str:
        ids = EVENT_IDS.get()
        return random_uuid() if ids is None else ids.next().hex()[:DIGITS]

    return request_uuid


def uuids_of_the_request(module: Any) -> Any:
    """The part of Python's module `uuid` that a module uses."""

    def uuid4() -> uuid.UUID:
        ids = EVENT_IDS.get()
        return module.uuid4() if ids is None else uuid.UUID(bytes=ids.next(), version=4)

    return SimpleNamespace(uuid4=uuid4)


def _makers() -> list[ModuleType]:
    """Modules that took `random_uuid` when they were imported."""
    from vllm.utils import random_uuid

    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(PACKAGES) and vars(module).get("random_uuid") is random_uuid
    ]


def _install() -> None:
    from vllm.entrypoints.anthropic import serving
    from vllm.entrypoints.openai.responses import protocol, streaming_events, utils  # noqa: F401
    from vllm.renderers import chat_utils  # noqa: F401

    for module in _makers():
        replace(module, "random_uuid", of_the_request)
    replace(serving, "uuid", uuids_of_the_request)


_RESPONSES = "vllm.entrypoints.openai.responses"
PATCH = Patch(
    name="event_ids",
    versions=">=0.32,<0.33",
    upstream="vllm/utils/__init__.py, random_uuid",
    remove_when="vLLM derives the ids of calls and items from the request's id",
    apply=_install,
    replaces=(
        "vllm.utils:random_uuid",
        "vllm.renderers.chat_utils:random_uuid",
        f"{_RESPONSES}.protocol:random_uuid",
        f"{_RESPONSES}.serving:random_uuid",
        f"{_RESPONSES}.streaming_events:random_uuid",
        f"{_RESPONSES}.utils:random_uuid",
        "vllm.entrypoints.anthropic.serving:AnthropicServingMessages",
    ),
)
