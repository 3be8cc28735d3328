"""Repetitions and results with plain defaults; a test names only what it is about."""

from collections.abc import Sequence
from typing import Any

from loadtest.stats import Repetition


def repetition(
    *,
    tokens_per_s: float = 100.0,
    wall_s: float = 2.0,
    cpu_s: float = 1.0,
    ttft_ms: Sequence[float] = (20.0,),
    itl_ms: Sequence[float] = (8.0,),
    foreign_cores: float = 0.0,
) -> Repetition:
    return Repetition(
        output_tokens=round(tokens_per_s * wall_s),
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


def compared(ratio: float = 0.99, added_ms: float = 0.5) -> dict[str, Any]:
    return {
        "tokens_per_s_ratio": {"value": ratio, "low": ratio - 0.01, "high": ratio + 0.01},
        "ttft_p50_added_ms": {"value": added_ms, "low": added_ms - 1, "high": added_ms + 1},
        "ttft_p95_added_ms": {"value": 1.0, "low": 0.0, "high": 2.0},
        "pairs": 10,
    }


def results() -> dict[str, Any]:
    return {
        "bare": {"1": figures(100.0), "32": figures(1500.0)},
        "ours": {"1": figures(99.0), "32": figures(1480.0)},
        "meta": {
            "machine": {"cpu": "Example CPU", "cores": 2},
            "date": "2026-01-02T03:04:05+00:00",
            "commit": "abcdef123456",
            "output_tokens": 64,
            "over_bare": {"ours": {"1": compared(), "32": compared(ratio=0.98)}},
        },
    }
