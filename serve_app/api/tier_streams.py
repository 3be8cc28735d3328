"""The resumable streams of one replica: those that were asked for at its tier's own route.

Such a stream runs on without its client as one of `/v1` does (`kept_streams.py`). Its id begins
with the replica's name, so that whichever replica a client comes back to asks the one that has it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from serve_app.api.cancellation import ClientSend, Deadlines, StallWatch, Watched
from serve_app.api.client_connection import BodyOnly, while_connected
from serve_app.api.forwarding import Forwarder, Marks
from serve_app.api.kept_stream import STREAM_ID_HEADER
from serve_app.api.kept_streams import (
    LAST_EVENT_ID_HEADER,
    KeptStreams,
    last_event,
)
from serve_app.api.request_context import path_below_root
from serve_app.api.response import TierResponse
from serve_app.core.access.caller import Caller
from serve_app.errors import ClientDisconnectedError, RequestError

_PASSED_ON = (b"content-type", b"cache-control", b"x-accel-buffering", STREAM_ID_HEADER)
# Runs a request: `receive` and `send` are its client's, or stand for it.
Generate = Callable[[Receive, ClientSend], Awaitable[None]]


@dataclass(slots=True)
class TierStreams:
    """`kept.id_prefix` has the name that `forwarder` knows this replica by."""

    kept: KeptStreams
    forwarder: Forwarder
    watch: StallWatch
    # Of those who read: what runs for them has deadlines of its own.
    _deadlines: Deadlines = field(default_factory=Deadlines)

    async def run(
        self,
        generate: Generate,
        receive: Receive,
        client: ClientSend,
        caller: Caller,
        request_id: str,
        stall_s: float,
    ) -> None:
        """Run a request whose client may leave and come back. Raises what `generate` raises."""
        body = BodyOnly(receive)

        async def relay(to: Send) -> None:
            await generate(body, ClientSend(to, client.clock_s))

        async with self._reading(body.after, client, stall_s):
            await self.kept.run(
                relay,
                client,
                caller=caller,
                request_id=request_id,
                tier=self.forwarder.tier.value,
            )

    async def answer(
        self,
        scope: Scope,
        receive: Receive,
        response: TierResponse,
        client: ClientSend,
        caller: Caller,
        marks: Marks,
        stall_s: float,
    ) -> None:
        """Answer `GET /v1/streams/{id}` below the tier's prefix, as a whole."""
        try:
            async with self._reading(receive, client, stall_s):
                stream_id = path_below_root(scope).rpartition("/")[2]
                after = last_event(scope, Request(scope).query_params.get("after"))
                replica = stream_id.rpartition("-")[0]
                if replica in ("", self.forwarder.replica) or marks.forwarded:
                    stream = self.kept.find(stream_id, caller)
                    await self.kept.resume(stream, after, _into(response))
                else:
                    await self._from_replica(replica, scope, response, caller, after)
        except RequestError as error:
            await response.fail(error)

    @asynccontextmanager
    async def _reading(
        self, receive: Receive, client: ClientSend, stall_s: float
    ) -> AsyncIterator[None]:
        """Until the client has left, or takes nothing any more: then there is nobody to tell."""
        with suppress(ClientDisconnectedError):
            async with self._deadlines.until_ended() as deadline:
                watched = Watched(client, stall=lambda: self._deadlines.stall(deadline))
                with self.watch.watching(watched, stall_s):
                    async with while_connected(receive):
                        yield

    async def _from_replica(
        self, replica: str, scope: Scope, response: TierResponse, caller: Caller, after: int
    ) -> None:
        """Send on what the replica has that began the stream. Raises RequestError."""
        url = await self.forwarder.url_of(replica)
        if url is None:
            raise _replica_gone()
        headers = {LAST_EVENT_ID_HEADER.decode(): str(after)}
        if response.form.endpoint.anthropic:
            headers["anthropic-version"] = "1"
        request_id = response.form.request_id.value
        try:
            asked = self.forwarder.read_stream(url + scope["path"], caller, request_id, headers)
            async with asked as answer:
                await _copy(answer, response)
        except aiohttp.ClientError as error:
            if response.started:
                raise RequestError(
                    502, "The replica that ran this request was lost.", code="replica_lost"
                ) from error
            raise _replica_gone() from error


def _into(response: TierResponse) -> Send:
    """A `send` whose response has the headers that each one of the edge's has."""

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            await response.start(message["status"], [*message["headers"]])
        else:
            response.complete = not message.get("more_body", False)
            await response.send(message)

    return send


async def _copy(answer: aiohttp.ClientResponse, response: TierResponse) -> None:
    send = _into(response)
    headers = [(name.lower(), value) for name, value in answer.raw_headers]
    kept = [each for each in headers if each[0] in _PASSED_ON]
    await send({"type": "http.response.start", "status": answer.status, "headers": kept})
    async for chunk in answer.content.iter_any():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _replica_gone() -> RequestError:
    return RequestError(
        404,
        "The replica that ran this stream is not there any more, and the stream's events went with "
        "it. Send the request again; a stream of /v1 outlives its replica.",
        code="stream_not_found",
    )
