"""`python -m loadtest key-overhead`: what a key and its quota add to the time to a first token.

One service that asks for keys and also serves who has none (`serve --keys --allow-anonymous`) gets
the same requests in turn with a key and without, so that drift of the machine cancels.
"""

import argparse
import asyncio
import random
import statistics
from typing import Any

import numpy as np
from rich.console import Console

from loadtest.client.chat import chat_body, open_session
from loadtest.client.first_token import first_token_s
from loadtest.errors import MeasurementError
from loadtest.load.run import on_own_loop
from loadtest.options import positive
from loadtest.report.statistics import Estimate, bootstrap

TIMEOUT_S = 60.0
# Of both kinds, before the first that counts.
WARM_UP = 10
DESCRIPTION = (
    "Sends streaming chat completions in pairs, one with a key and one without, to "
    "a service that was started with `serve --keys --allow-anonymous`, and compares the times "
    "to their first tokens."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000/api/chat/v1", help="OpenAI base URL")
    add("--key", required=True, help="a key with limits that the run does not reach")
    add("--pairs", type=positive, default=300, help="requests of each kind")
    add("--streams", type=positive, default=1, help="pairs at a time")
    add("--output-tokens", type=positive, default=8, help="length of the answers")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Raises MeasurementError where a request is not answered."""
    pairs = on_own_loop(_measured(options))[WARM_UP:]
    with_key, without = (np.asarray(times) * 1e3 for times in zip(*pairs, strict=True))
    for percent in (50, 95, 99):
        added = _added_ms(with_key, without, percent)
        console.print(
            f"TTFT p{percent}: {np.percentile(without, percent):.2f} ms without a key, added "
            f"{added.value:+.2f} ms (95 %: {added.low:+.2f} to {added.high:+.2f})"
        )
    paired = statistics.median(with_key - without)
    console.print(f"median of the pairs' differences: {paired:+.2f} ms, {len(pairs)} pairs")
    return 0


def _added_ms(with_key: Any, without: Any, percent: int) -> Estimate:
    """Of a percentile, over the pairs."""

    def added_ms(rows: Any) -> Any:
        keyed, other = (np.percentile(of[rows], percent, axis=-1) for of in (with_key, without))
        return keyed - other

    return Estimate.of(added_ms(np.arange(len(without))), bootstrap(len(without), added_ms))


async def _measured(options: argparse.Namespace) -> list[tuple[float, float]]:
    """Seconds to the first token with a key and without, of each pair."""
    pairs: list[tuple[float, float]] = []
    left = iter(range(WARM_UP + options.pairs))
    rng = random.Random(0)

    async with (
        open_session(TIMEOUT_S, options.key, keep_alive=True) as keyed,
        open_session(TIMEOUT_S, keep_alive=True) as anonymous,
    ):

        async def stream() -> None:
            for number in left:
                body = chat_body("chat", f"Count to {number}.", output_tokens=options.output_tokens)
                url, times = f"{options.url}/chat/completions", {}
                for session in rng.sample((keyed, anonymous), 2):
                    first_s = await first_token_s(session, url, body)
                    if first_s is None:
                        raise MeasurementError(
                            "the service is full, or the key over its limit: fewer --streams, or "
                            "a key with larger limits"
                        )
                    times[session is keyed] = first_s
                pairs.append((times[True], times[False]))

        await asyncio.gather(*(stream() for _ in range(options.streams)))
    return pairs
