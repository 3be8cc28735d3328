"""The pure path: the fake engine behind all of tierserve, against the same on a plain server.

Its chunks cost next to nothing to make, so what limits them is the way to the client: uvicorn
alone, or HAProxy, Ray Serve's replica, and tierserve's edge and gate.
"""

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtest.servers.systems import (
    MODEL_NAME,
    OURS,
    OURS_V1,
    System,
    at_v1,
    our_chat_tier,
    supervised,
)
from loadtest.studies.overhead.measure import Measured, Repetition, estimate, rate_ratio
from loadtest.studies.overhead.plan import ClosedLoop, Plan
from serve_app.config.engine import FakeEngineConfig
from serve_app.config.tier import EngineConfig

PLAIN = "plain"
# Of a CPU's step times nothing is left: a step takes as long as its chunks take to be written.
SPEED = 1e6
OUTPUT_TOKENS = 512
REQUESTS = {1: 6, 8: 24, 32: 64}
MAX_ROUNDS = 6


def pure_path_plan(plan: Plan) -> Plan:
    """As exacting as `plan`, with longer streams, since the fake engine is fast."""
    return replace(
        plan,
        rounds=min(plan.rounds, MAX_ROUNDS),
        levels=tuple(ClosedLoop(streams, requests) for streams, requests in REQUESTS.items()),
        output_tokens=OUTPUT_TOKENS,
        starts=1,
    )


@contextlib.contextmanager
def pure_path_systems(
    model_dir: Path, *, port: int, slots: int, on_wait: Callable[[], None]
) -> Iterator[tuple[System, ...]]:
    """The plain server and tierserve, at both of its routes, with the same fake engine."""
    engine = EngineConfig(fake=FakeEngineConfig(start_s=0, speed=SPEED))
    command = [
        *(sys.executable, "-m", "loadtest.studies.overhead.plain_asgi"),
        *("--port", str(port), "--model-name", MODEL_NAME),
        *("--engine", engine.model_dump_json()),
    ]
    with (
        supervised(PLAIN, command, {}, port=port, on_wait=on_wait) as plain,
        our_chat_tier(model_dir, engine, slots=slots, on_wait=on_wait) as ours,
    ):
        yield plain, ours, at_v1(ours)


def pure_path_results(measured: Measured) -> dict[str, Any]:
    """`{system: {streams: figures}}`; by streams, tierserve over the plain server, and its `/v1`
    over its own route."""
    figures = {
        system: {level: _figures(measured.repetitions(level, system)) for level in measured.rounds}
        for system in (PLAIN, OURS, OURS_V1)
    }
    return {
        **figures,
        "chunks_per_s_ratio": _ratios(measured, PLAIN, OURS),
        "v1_chunks_per_s_ratio": _ratios(measured, OURS, OURS_V1),
    }


def _ratios(measured: Measured, base: str, other: str) -> dict[str, dict[str, float]]:
    return {
        level: estimate(
            measured.pairs(level, base, other), lambda pairs: rate_ratio(pairs, "chunks_per_s")
        ).rounded(3)
        for level in measured.rounds
    }


def _figures(repetitions: Sequence[Repetition]) -> dict[str, float]:
    """Medians of repetitions. At full speed a writer that is late sends several tokens at once."""

    def median(of: Callable[[Repetition], float], digits: int) -> float:
        return round(statistics.median(map(of, repetitions)), digits)

    return {
        "chunks_per_s": median(lambda it: it.chunks_per_s, 0),
        "cpu_s_per_kchunk": median(lambda it: it.cpu_s_per_kchunk, 4),
        "tokens_per_chunk": median(lambda it: it.output_tokens / it.chunks, 2),
        "client_cores": median(lambda it: it.client_cpu_s / it.wall_s, 2),
    }
