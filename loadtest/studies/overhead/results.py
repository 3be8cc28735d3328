"""The results file of the overhead: a row per system and level, and what they were taken on."""

import datetime
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loadtest.overhead.plan import UNEQUAL, OpenLoop, Plan, place_of
from loadtest.overhead.rounds import Measured
from loadtest.results_file import commit, machine, versions
from loadtest.stats import (
    Pair,
    added_ms,
    cpu_s_per_ktoken_by_part,
    estimate,
    rate_ratio,
    summary,
)
from loadtest.systems import BARE, BARE_BESIDE_OURS, OURS

MIN_THROUGHPUT_RATIO = 0.97
MAX_ADDED_TTFT_P50_MS = 2.0
MAX_ADDED_TTFT_P95_MS = 10.0


def rows(systems: Sequence[str], measured: Measured) -> dict[str, Any]:
    """`{system: {level: figures}}`; a level is a number of streams, or `open-loop`."""
    return {
        system: {level: summary(measured.repetitions(level, system)) for level in measured.rounds}
        for system in systems
    }


def comparison(systems: Sequence[str], measured: Measured, base: str = BARE) -> dict[str, Any]:
    """`{system: {level: figures}}` of all but `base`, compared with it within each round: each
    figure with its 95 % interval."""
    return {
        system: {level: _compare(measured.pairs(level, base, system)) for level in measured.rounds}
        for system in systems
        if system != base
    }


def _compare(pairs: list[Pair]) -> dict[str, Any]:
    return {
        "tokens_per_s_ratio": estimate(pairs, rate_ratio).rounded(3),
        "ttft_p50_added_ms": estimate(pairs, lambda it: added_ms(it, "ttft_s", 50)).rounded(2),
        "ttft_p95_added_ms": estimate(pairs, lambda it: added_ms(it, "ttft_s", 95)).rounded(2),
        "itl_p50_added_ms": estimate(pairs, lambda it: added_ms(it, "itl_s", 50)).rounded(2),
        "rounds": len(pairs),
    }


def bar(compared: Mapping[str, Any]) -> dict[str, bool]:
    """The promises on tierserve's overhead: which of them this run keeps."""
    kept = {
        f"tokens a second {place_of(level)}: at least {MIN_THROUGHPUT_RATIO} of bare": (
            compared[level]["tokens_per_s_ratio"]["value"] >= MIN_THROUGHPUT_RATIO
        )
        for level in ("1", "8", "32", f"32{UNEQUAL}")
        if level in compared
    }
    for level, percent, limit_ms in (
        ("1", 50, MAX_ADDED_TTFT_P50_MS),
        ("32", 95, MAX_ADDED_TTFT_P95_MS),
        (f"32{UNEQUAL}", 95, MAX_ADDED_TTFT_P95_MS),
    ):
        if level in compared:
            added_ms = compared[level][f"ttft_p{percent}_added_ms"]["value"]
            promise = f"TTFT p{percent} {place_of(level)}: at most {limit_ms:g} ms over bare"
            kept[promise] = added_ms <= limit_ms
    return kept


def starts_measured(plan: Plan, measured: Measured) -> int:
    """Starts of the servers that have a round in the results: fewer in an interrupted run."""
    rounds = max(map(len, measured.rounds.values()), default=0)
    return sum(numbers.start < rounds for numbers in plan.rounds_by_start())


def meta(
    systems: Sequence[str],
    measured: Measured,
    plan: Plan,
    *,
    argv: Iterable[str],
    model: str,
    engine: Mapping[str, Any],
) -> dict[str, Any]:
    over_bare = comparison(systems, measured)
    open_loop = next((level for level in plan.levels if isinstance(level, OpenLoop)), None)
    return {
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "command": shlex.join(["python", "-m", "loadtest", *argv]),
        "model": model,
        "engine": {name: value for name, value in engine.items() if value not in (None, {})},
        "output_tokens": plan.output_tokens,
        "starts": starts_measured(plan, measured),
        "requests_per_repetition": {level.name: level.requests for level in plan.levels},
        "open_loop": None if open_loop is None else {"rate_rps": open_loop.rate_rps},
        "repetitions_thrown_away": measured.disturbed,
        "idle_cores": {name: round(cores, 3) for name, cores in measured.idle_cores.items()},
        "cpu_s_per_ktoken_by_part": {
            system: {
                level: cpu_s_per_ktoken_by_part(measured.repetitions(level, system))
                for level in measured.rounds
            }
            for system in systems
        },
        "over_bare": over_bare,
        # What tierserve costs beyond Ray's processes being there.
        "over_bare_beside_ours": (
            comparison((OURS,), measured, BARE_BESIDE_OURS) if BARE_BESIDE_OURS in systems else {}
        ),
        "bar": bar(over_bare[OURS]) if OURS in over_bare else {},
    }
