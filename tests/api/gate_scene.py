"""Requests at a gate, in virtual time."""

import asyncio
from collections.abc import Coroutine

from serve_app.api.gate import Gate
from tests.virtual_time import now_s


async def a_request(
    gate: Gate, name: str, log: list[str], *, hold_s: float = 1.0, sequences: int = 1
) -> None:
    """Enters, waits, holds its slots; writes down when it began."""
    with gate.enter(sequences) as place:
        await asyncio.wait({place.granted})
        log.append(f"{name}@{now_s():g}")
        await asyncio.sleep(hold_s)


async def at_once(*requests: Coroutine[None, None, None]) -> None:
    await asyncio.gather(*requests)
