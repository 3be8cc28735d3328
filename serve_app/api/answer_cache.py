"""Answers kept for the same question: asked with the same key, in the same words and parameters.

Only what is deterministic is kept: temperature 0, or a seed. Each replica keeps its own.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cachetools import TTLCache
from starlette.types import Scope

from serve_app.api.client_identity import client_of
from serve_app.api.endpoints import Endpoint
from serve_app.api.rules import PreparedRequest
from serve_app.config.answers import AnswerCacheConfig

CACHE_HEADER = b"x-tierserve-cache"
# What one kept answer takes beside its bytes.
OVERHEAD_BYTES = 512
_ID = re.compile(rb'"id":"((?:chatcmpl|cmpl|resp|msg)[-_][^"]+)"')
# The begin of an event that tells of a fault; inside a JSON string no line begins.
_FAULT = re.compile(rb'^(?:data: \{"error":|event: (?:error|response\.failed)$)', re.MULTILINE)
_EVENT_END = b"\n\n"


@dataclass(slots=True)
class KeptAnswer:
    """An answer as it was sent: `parts` are those of a stream, or one JSON body."""

    streamed: bool
    headers: tuple[tuple[bytes, bytes], ...] = ()
    parts: list[bytes] = field(default_factory=list[bytes])

    @property
    def size_bytes(self) -> int:
        return OVERHEAD_BYTES + sum(map(len, self.parts))

    @property
    def failed(self) -> bool:
        """A stream that began well and ended with an error."""
        return self.streamed and _FAULT.search(b"".join(self.parts)) is not None

    def renamed(self, request_id: str) -> list[bytes]:
        """The events of the stream, or the JSON body, under an id of their own. The parts that
        another replica has sent need not be whole events."""
        whole = b"".join(self.parts)
        first = _ID.search(whole)
        if first is not None:
            whole = whole.replace(first[1], _new_id(first[1], request_id))
        if not self.streamed:
            return [whole]
        return [event + _EVENT_END for event in whole.split(_EVENT_END) if event]


def _new_id(old: bytes, request_id: str) -> bytes:
    """With the same word in front."""
    at = len(re.split(rb"[-_]", old, maxsplit=1)[0]) + 1
    return old[:at] + request_id.encode()


class AnswerCache:
    """Bounded in bytes and age; the least recently used goes first."""

    def __init__(
        self, config: AnswerCacheConfig, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self._kept: TTLCache[str, KeptAnswer] = TTLCache(
            maxsize=config.max_bytes if config.enabled else 0,
            ttl=config.max_age_s,
            timer=clock_s,
            getsizeof=lambda answer: answer.size_bytes,
        )

    @property
    def size_bytes(self) -> int:
        return int(self._kept.currsize)

    def key(self, scope: Scope, endpoint: Endpoint, prepared: PreparedRequest) -> str | None:
        """None for a request whose answer is not to be kept: a random one, or the cache is off."""
        payload = prepared.payload
        deterministic = payload.get("temperature") == 0 or payload.get("seed") is not None
        if not self.config.enabled or not deterministic:
            return None
        client = client_of(scope)
        asked = [
            client and client.hex(),
            endpoint.path,
            payload,
            repr(prepared.plan),
            prepared.stop_repetition,
        ]
        text = json.dumps(asked, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str) -> KeptAnswer | None:
        return self._kept.get(key)

    def keep(self, key: str, answer: KeptAnswer) -> None:
        """One that failed, or is larger than the whole cache, is not kept."""
        if answer.parts and not answer.failed and answer.size_bytes <= self._kept.maxsize:
            self._kept[key] = answer
