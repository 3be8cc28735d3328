"""Repetitions and results with plain defaults; a test names only what it is about."""

from collections.abc import Sequence
from typing import Any

from loadtest.studies.overhead.measure import Repetition


def repetition(
    *,
    tokens_per_s: float = 100.0,
    wall_s: float = 2.0,
    cpu_s: float = 1.0,
    ttft_ms: Sequence[float] = (20.0,),
    itl_ms: Sequence[float] = (8.0,),
    foreign_cores: float = 0.0,
    tokens_per_chunk: float = 1.0,
) -> Repetition:
    return Repetition(
        output_tokens=round(tokens_per_s * wall_s),
        chunks=round(tokens_per_s * wall_s / tokens_per_chunk),
        wall_s=wall_s,
        server_cpu_s=cpu_s,
        client_cpu_s=0.1,
        foreign_cores=foreign_cores,
        ttft_s=[value / 1e3 for value in ttft_ms],
        itl_s=[value / 1e3 for value in itl_ms],
    )


def figures(tokens_per_s: float) -> dict[str, float]:
    return {
        "tokens_per_s": tokens_per_s,
        "ttft_p50_ms": 20.04,
        "ttft_p95_ms": 25.0,
        "itl_p50_ms": 8.26,
        "cpu_s_per_ktoken": 1.234,
    }


def compared(ratio: float = 0.99, p50_ms: float = 0.5, p95_ms: float = 1.0) -> dict[str, Any]:
    return {
        "tokens_per_s_ratio": {"value": ratio, "low": ratio - 0.01, "high": ratio + 0.01},
        "ttft_p50_added_ms": {"value": p50_ms, "low": p50_ms - 1, "high": p50_ms + 1},
        "ttft_p95_added_ms": {"value": p95_ms, "low": p95_ms - 1, "high": p95_ms + 1},
        "itl_p50_added_ms": {"value": -0.2, "low": -0.3, "high": 0.1},
        "rounds": 10,
    }


def results() -> dict[str, Any]:
    """Two systems at two levels; one of two promises is kept."""
    return {
        "bare": {"1": figures(100.0), "open-loop": figures(1500.0)},
        "ours": {"1": figures(99.0), "open-loop": figures(1480.0)},
        "meta": {
            "machine": {"cpu": "Example CPU", "cores": 2},
            "date": "2026-01-02T03:04:05+00:00",
            "commit": "abcdef123456",
            "output_tokens": 64,
            "open_loop": {"rate_rps": 12.5},
            "over_bare": {"ours": {"1": compared(), "open-loop": compared(ratio=0.98)}},
            "bar": {"as fast": True, "as soon": False},
        },
    }
