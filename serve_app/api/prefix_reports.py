"""What the replicas of a tier report to each other: how busy each is, and of which prompts it has
the begin in its prefix cache.

Each sends to all others, ten times a second while there are new prompts and once a second without:
(1) its load, (2) the chunks of the prompts that came since its last report, or (3) all that it
has, to one that is new or has missed a report. A report is signed with the cluster's key and
numbered, so that nobody else can write one, nor send an old one again.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.request_body import BodyReader
from serve_app.api.request_context import header, path_below_root
from serve_app.core.prefix.cached_chunks import MOST_KEPT, CachedChunks
from serve_app.core.prefix.live_conversations import LiveConversations
from serve_app.core.prefix.prompt_chunks import CHUNK_BYTES, HASH_BYTES, Chunk
from serve_app.core.prefix.replica_choice import STALE_S, Candidate, ReplicaState
from serve_app.errors import ClientDisconnectedError, RequestError

log = logging.getLogger(__name__)

REPORT_PATH = "/internal/prefixes"
REPORT_HEADER = b"x-tierserve-report"
# Another form of the report, or of what it has, is another version; a replica reads its own only.
VERSION = f"1 {CHUNK_BYTES} {','.join(each.name for each in fields(ReplicaState))}"
# An HMAC in hexadecimal digits: for nothing else a body is read.
MARK = re.compile(rb"[0-9a-f]{64}")
TICK_S, HEARTBEAT_S = 0.1, 1.0
# With more replicas than this reports come less often, so that their number is bounded.
QUICK_REPLICAS = 8
# How often the other replicas are asked for, with and without any.
ADDRESSES_EVERY_S, ALONE_EVERY_S = 2.0, 5.0
POST_LIMIT_S = 1.0
# One that takes no report, as of another version or with the setting off, is tried as often.
RETRY_EVERY_S = 2.0
MOST_REPORT_BYTES = 1024 * 1024
# More new prompts between two reports are left out of them, the oldest first.
MOST_PENDING = 256
# The mean of how busy a replica is counts about so long a time.
LOAD_S = 30.0
# Of a replica that has reported nothing for so long nothing is kept.
FORGOTTEN_S = 60.0

Post = Callable[[str, Sequence[tuple[bytes, bytes]], bytes], Awaitable[int | None]]


@dataclass(slots=True)
class MeanLoad:
    """A mean of what is busy, which forgets."""

    sequences: float = 0.0
    observed_s: float = 0.0
    _read_s: float | None = None

    def observe(self, sequences: float, now_s: float) -> None:
        """So many are busy, and were since the last call."""
        if self._read_s is not None:
            self.observed_s += now_s - self._read_s
            weight = 1 - math.exp((self._read_s - now_s) / LOAD_S)
            self.sequences += weight * (sequences - self.sequences)
        self._read_s = now_s


@dataclass(slots=True)
class _Peer:
    state: ReplicaState
    number: int
    received_s: float
    cached: CachedChunks = field(default_factory=CachedChunks)


@dataclass(slots=True)
class PrefixReports:
    """`addresses` gives the base URLs of the tier's other replicas by their names, `post` sends a
    body to one of them, `state` is this replica's own (its name and what is counted here are
    filled in), `busy` how many sequences run or wait here now, `most_chunks` how many its KV pool
    holds. `enabled`: without it nothing is sent, kept or believed."""

    replica: str
    key: bytes
    prefix: str
    clock_s: Callable[[], float]
    addresses: Callable[[], Awaitable[Mapping[str, str]]]
    post: Post
    state: Callable[[], ReplicaState]
    busy: Callable[[], int]
    most_chunks: Callable[[], int] = lambda: MOST_KEPT
    enabled: Callable[[], bool] = lambda: True
    own: CachedChunks = field(default_factory=CachedChunks)
    conversations: LiveConversations = field(default_factory=LiveConversations)
    bodies: BodyReader = field(default_factory=BodyReader)
    load: MeanLoad = field(default_factory=MeanLoad)
    _peers: dict[str, _Peer] = field(default_factory=dict[str, _Peer])
    _urls: Mapping[str, str] = field(default_factory=dict[str, str])
    _pending: list[tuple[Chunk, ...]] = field(default_factory=list[tuple[Chunk, ...]])
    # Those that have all that was reported before.
    _informed: set[str] = field(default_factory=set[str])
    _sending: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, asyncio.Task[None]])
    _next_try_s: dict[str, float] = field(default_factory=dict[str, float])
    _number: int = 0
    _sent_s: float = -math.inf
    _addresses_s: float = -math.inf

    @property
    def alone(self) -> bool:
        """Whether there is no other replica."""
        return not self._urls

    def url_of(self, replica: str) -> str | None:
        """None where it is not among the tier's replicas."""
        return self._urls.get(replica)

    def use(self, chunks: Sequence[Chunk]) -> None:
        """This replica's engine is given a prompt of these."""
        if not chunks:
            return
        self.own.most = min(self.most_chunks(), MOST_KEPT)
        self.own.use(chunks)
        self.conversations.turn(chunks, self.clock_s())
        if not self.alone:
            self._pending.append(tuple(chunks))
            del self._pending[:-MOST_PENDING]

    def own_state(self) -> ReplicaState:
        """As the others would see this replica now."""
        return replace(
            self.state(),
            name=self.replica,
            sequences=self.load.sequences,
            conversations=self.conversations.count(self.clock_s()),
            up_s=self.load.observed_s,
        )

    def peers(self, chunks: Sequence[Chunk], tokens_each: float) -> list[Candidate]:
        """The other replicas, with what each has of a prompt."""
        now_s = self.clock_s()
        return [
            Candidate(
                replace(peer.state, age_s=now_s - peer.received_s),
                peer.cached.found(chunks) * tokens_each,
            )
            for name, peer in self._peers.items()
            if name in self._urls
        ]

    async def until_silent(self, name: str) -> None:
        """Ends when nothing has been heard of a replica for so long that nothing may be said of
        it."""
        while (peer := self._peers.get(name)) is not None:
            left_s = STALE_S - (self.clock_s() - peer.received_s)
            if left_s <= 0:
                return
            await asyncio.sleep(max(left_s, TICK_S))

    def report(self) -> dict[str, Any]:
        """For `/api/tiers`."""
        now_s = self.clock_s()
        fresh = sum(now_s - peer.received_s <= STALE_S for peer in self._peers.values())
        return {
            "chunks": len(self.own),
            "conversations": self.conversations.count(now_s),
            "mean_sequences": round(self.load.sequences, 2),
            "replicas_heard": fresh,
        }

    async def run(self) -> None:
        """Report until cancelled."""
        try:
            while True:
                await asyncio.sleep(TICK_S * max(1.0, len(self._urls) / QUICK_REPLICAS))
                try:
                    self.load.observe(self.busy(), self.clock_s())
                    await self._look_around()
                    self._tick()
                # A bug here must not end the reports for ever.
                except Exception:
                    log.exception("a report to the other replicas failed")
        finally:
            for task in self._sending.values():
                task.cancel()

    def behind(self, app: ASGIApp) -> ASGIApp:
        """The application, and the route to which the others report. Without a true signature that
        route does not exist."""

        async def with_reports(scope: Scope, receive: Receive, send: Send) -> None:
            is_report = (
                scope["type"] == "http"
                and scope["method"] == "POST"
                and path_below_root(scope) == REPORT_PATH
                and header(scope, REPORT_HEADER) is not None
            )
            if not is_report or not await self._received(scope, receive):
                await app(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return with_reports

    def take(self, mark: bytes, body: bytes) -> bool:
        """A report of another replica, or of somebody who says so; whether it is believed."""
        if not hmac.compare_digest(mark, self._mark(body)):
            return False
        written = json.loads(body)
        if written.get("version") != VERSION or not self.enabled():
            return False
        state = ReplicaState(**written["state"])
        peer = self._peers.get(state.name)
        if state.name == self.replica or (peer is not None and written["number"] <= peer.number):
            return True
        now_s = self.clock_s()
        if peer is None:
            peer = self._peers[state.name] = _Peer(state, 0, now_s)
        peer.state, peer.number, peer.received_s = state, written["number"], now_s
        if written["whole"]:
            peer.cached = CachedChunks()
        peer.cached.most = min(written["most"], MOST_KEPT)
        for prompt in written["prompts"]:
            peer.cached.use(_unpacked(prompt))
        return True

    async def _received(self, scope: Scope, receive: Receive) -> bool:
        mark = header(scope, REPORT_HEADER) or b""
        if MARK.fullmatch(mark) is None:
            return False
        try:
            body = await self.bodies.read(
                scope, receive, limit_bytes=MOST_REPORT_BYTES, timeout_s=POST_LIMIT_S
            )
        except (RequestError, ClientDisconnectedError):
            return False
        return self.take(mark, body)

    async def _look_around(self) -> None:
        """Learn which other replicas there are."""
        now_s = self.clock_s()
        every_s = ALONE_EVERY_S if self.alone else ADDRESSES_EVERY_S
        if not self.enabled() or now_s - self._addresses_s < every_s:
            return
        self._addresses_s = now_s
        self._urls = await self.addresses()
        self._sending = {name: task for name, task in self._sending.items() if not task.done()}
        self._informed &= set(self._urls)
        self._next_try_s = {n: at_s for n, at_s in self._next_try_s.items() if n in self._urls}
        for name in [
            name
            for name, peer in self._peers.items()
            if name not in self._urls and now_s - peer.received_s > FORGOTTEN_S
        ]:
            del self._peers[name]

    def _tick(self) -> None:
        if not self.enabled() or self.alone:
            self._pending.clear()
            self._informed.clear()
            return
        now_s = self.clock_s()
        if not self._pending and now_s - self._sent_s < HEARTBEAT_S:
            return
        self._sent_s = now_s
        self._number += 1
        news, whole = self._written(self._pending, whole=False), None
        self._pending = []
        for name, url in self._urls.items():
            if (task := self._sending.get(name)) is not None and not task.done():
                # It is slow, and misses this one.
                self._informed.discard(name)
                continue
            if now_s < self._next_try_s.get(name, now_s):
                continue
            body = news
            if name not in self._informed:
                body = whole = whole or self._written([self.own.all()], whole=True)
            self._informed.add(name)
            self._sending[name] = asyncio.create_task(self._send(name, url, body))

    async def _send(self, name: str, url: str, body: bytes) -> None:
        status = None
        with suppress(TimeoutError):
            async with asyncio.timeout(POST_LIMIT_S):
                headers = [(REPORT_HEADER, self._mark(body))]
                status = await self.post(url + self.prefix + REPORT_PATH, headers, body)
        if status != 204:
            self._informed.discard(name)
            self._next_try_s[name] = self.clock_s() + RETRY_EVERY_S
            log.debug("a report was not taken", extra={"peer": name, "status": status})

    def _written(self, prompts: Sequence[Sequence[Chunk]], *, whole: bool) -> bytes:
        state = asdict(self.own_state())
        written = {
            "version": VERSION,
            "number": self._number,
            "state": state,
            "most": self.own.most,
            "whole": whole,
            "prompts": [base64.b64encode(b"".join(chunks)).decode() for chunks in prompts],
        }
        return json.dumps(written).encode()

    def _mark(self, body: bytes) -> bytes:
        signed = b"prefix report\0" + body
        return hmac.new(self.key, signed, hashlib.sha256).hexdigest().encode()


def _unpacked(prompt: str) -> list[Chunk]:
    packed = base64.b64decode(prompt)
    return [packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)]
