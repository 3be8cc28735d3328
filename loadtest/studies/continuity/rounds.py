"""One fault under running streams, of which there is one more that nothing happened to."""

import asyncio
import random
from collections.abc import Sequence

from loadtest.errors import MeasurementError
from loadtest.studies.continuity.faults import FAULTS, Service, until
from loadtest.studies.continuity.results import Cut
from loadtest.studies.continuity.streams import Ask, Stream, read

# Where in what the unbroken streams wrote together the fault comes; later on many have ended.
EARLIEST, LATEST = 0.02, 0.8
PLACE_POLL_S = 0.002


async def unbroken_runs(
    service: Service, asked: Sequence[Ask], runs: int = 1
) -> list[tuple[Stream, ...]]:
    """Of each request its streams in so many runs without a fault."""
    made = [await _unbroken(service, asked) for _ in range(runs)]
    return list(zip(*made, strict=True))


async def _unbroken(service: Service, asked: Sequence[Ask]) -> list[Stream]:
    """All at once. Raises MeasurementError where one is not whole or not valid."""
    streams = [Stream(ask) for ask in asked]
    await asyncio.gather(*(read(service.session, service.base_url, each) for each in streams))
    for stream in streams:
        if not stream.whole or not stream.ask.is_valid(stream):
            raise MeasurementError(f"{stream.ask.kind}, unbroken: {stream.fault or stream.errors}")
    return streams


async def one_fault(
    service: Service,
    name: str,
    asked: Sequence[Ask],
    unbroken: Sequence[Sequence[Stream]],
    rng: random.Random,
) -> tuple[list[Cut], float]:
    """Of the streams that ran when it came; and after how many seconds its victim had ended."""
    streams = [Stream(ask) for ask in asked]
    place = rng.uniform(EARLIEST, LATEST) * sum(len(each[0].events) for each in unbroken)
    reading = [
        asyncio.create_task(read(service.session, service.base_url, each)) for each in streams
    ]

    async def at_the_place() -> bool:
        return sum(len(each.events) for each in streams) >= place

    try:
        await until(at_the_place, "the streams are at the place", poll_s=PLACE_POLL_S)
        running = [
            (each, like, len(each.events))
            for each, like in zip(streams, unbroken, strict=True)
            if each.ended_s is None and each.has_begun
        ]
        done = await FAULTS[name](service, rng)
        await asyncio.gather(*reading)
    finally:
        for each in reading:
            each.cancel()
    return [Cut.of(*each, done.order_s) for each in running], done.gone_s
