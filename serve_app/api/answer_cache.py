"""Answers kept for the same question: with the same API key, messages and parameters.

Only what is deterministic is kept: temperature 0, or a seed. Each replica keeps its own.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from cachetools import TTLCache

from serve_app.api.request_context import RequestContext
from serve_app.api.routes import Endpoint
from serve_app.api.rules import PreparedRequest
from serve_app.config.answers import AnswerCacheConfig

CACHE_HEADER = b"x-tierserve-cache"
# What one kept answer takes beside its bytes.
OVERHEAD_BYTES = 512
_ID = re.compile(rb'"id":"((?:chatcmpl|cmpl|resp|msg)[-_][^"]+)"')
# The begin of an event that reports an error; inside a JSON string no line begins.
_ERROR = re.compile(rb'^(?:data: \{"error":|event: (?:error|response\.failed)$)', re.MULTILINE)
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
        return self.streamed and _ERROR.search(b"".join(self.parts)) is not None

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


@dataclass(slots=True)
class Recording:
    """What is sent to a client, given to `keep` if it comes to a good end: before its last part is
    sent, so that a client that then asks again finds it."""

    keep: Callable[[KeptAnswer], None]
    _answer: KeptAnswer | None = None

    def chunk(self, body: bytes) -> bytes:
        """Record a chunk of a stream."""
        if self._answer is None:
            self._answer = KeptAnswer(streamed=True)
        self._answer.parts.append(body)
        return body

    def whole(self, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Record a JSON answer."""
        if body:
            self._answer = KeptAnswer(False, tuple(headers), [body])

    def end(self, status: int) -> None:
        """The last part is about to be sent."""
        if self._answer is not None and status == 200:
            self.keep(self._answer)


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """`kept` is the answer that was found; without one, `recording` keeps the coming one."""

    kept: KeptAnswer | None
    recording: Recording | None

    @property
    def result(self) -> str:
        return "miss" if self.kept is None else "hit"

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((CACHE_HEADER, self.result.encode()),)


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

    def lookup(self, context: RequestContext) -> CacheLookup | None:
        """None for a request whose answer is not to be kept: a random one, one that carries another
        tier's name and is kept there, the end of one that another replica has begun, or the cache
        is off."""
        if context.borrower is not None or context.resumption is not None:
            return None
        key = self.key(context.client, context.endpoint, context.prepared)
        if key is None:
            return None
        kept = self.get(key)
        return CacheLookup(kept, Recording(partial(self.keep, key)) if kept is None else None)

    def key(
        self, client: bytes | None, endpoint: Endpoint, prepared: PreparedRequest
    ) -> str | None:
        """What the answer is kept under: the client, the endpoint, and all that the answer depends
        on."""
        if not self.config.enabled or not prepared.deterministic:
            return None
        asked = [
            client and client.hex(),
            endpoint.path,
            prepared.payload,
            repr(prepared.plan),
            prepared.stop_repetition,
            repr(prepared.policy),
        ]
        text = json.dumps(asked, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str) -> KeptAnswer | None:
        return self._kept.get(key)

    def keep(self, key: str, answer: KeptAnswer) -> None:
        """One that failed, or is larger than the whole cache, is not kept."""
        if answer.parts and not answer.failed and answer.size_bytes <= self._kept.maxsize:
            self._kept[key] = answer
