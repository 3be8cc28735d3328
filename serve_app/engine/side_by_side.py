"""More calls' results as those of one: the sequences of a request that run each for itself."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import RequestOutput, SamplingParams

    Outputs = AsyncGenerator[RequestOutput, None]


class Stream:
    """One sequence's results, of which the next one is always asked for."""

    def __init__(self, index: int, results: "Outputs") -> None:
        self.index = index
        self.results = results
        self.next = asyncio.ensure_future(anext(results, None))

    def take(self) -> "RequestOutput | None":
        """The one that has come, None for the end; asks for the next one."""
        result = self.next.result()
        if result is not None:
            self.next = asyncio.ensure_future(anext(self.results, None))
        return result

    async def close(self) -> None:
        self.next.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self.next
        await self.results.aclose()


async def merged(streams: Sequence[Stream]) -> "AsyncIterator[tuple[Stream, RequestOutput]]":
    """Each result with its stream, as they come."""
    left = list(streams)
    while left:
        await asyncio.wait([stream.next for stream in left], return_when=asyncio.FIRST_COMPLETED)
        for stream in [stream for stream in left if stream.next.done()]:
            result = stream.take()
            if result is None:
                left.remove(stream)
            else:
                yield stream, result


def single_params(params: "SamplingParams") -> "Iterator[SamplingParams]":
    """Those of each sequence, seeded as vLLM seeds the sequences of one request."""
    for index in range(params.n):
        single = params.clone()
        single.n = 1
        if params.seed is not None:
            single.seed = params.seed + index
        yield single


async def side_by_side(calls: "Sequence[Outputs]", *, streamed: bool) -> "Outputs":
    """The results of calls with one sequence each, as of one call with all of them."""
    streams = [Stream(index, call) for index, call in enumerate(calls)]
    left = len(streams)
    wholes: dict[int, RequestOutput] = {}
    try:
        async for stream, result in merged(streams):
            numbered = copy(result)
            numbered.outputs = [copy(output) for output in result.outputs]
            for output in numbered.outputs:
                output.index = stream.index
            if not streamed:
                wholes[stream.index] = numbered
                continue
            left -= numbered.finished
            numbered.finished = left == 0
            yield numbered
        if wholes:
            whole = wholes[min(wholes)]
            whole.outputs = [output for at in sorted(wholes) for output in wholes[at].outputs]
            yield whole
    finally:
        for stream in streams:
            await stream.close()
