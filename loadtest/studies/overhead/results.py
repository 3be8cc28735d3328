"""The results file of the overhead: a row per system and level, and what they were taken on."""

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.report.results_file import META, provenance, taken_on
from loadtest.servers.processes import HAPROXY, RAY, SERVER
from loadtest.servers.systems import BARE, BARE_BESIDE_OURS, OURS, OURS_V1
from loadtest.studies.overhead.measure import (
    Measured,
    Pair,
    added_ms,
    cpu_s_per_ktoken_by_part,
    estimate,
    rate_ratio,
    summary,
)
from loadtest.studies.overhead.options import RANDOM
from loadtest.studies.overhead.plan import UNEQUAL, OpenLoop, Plan, place_of
from loadtest.studies.overhead.pure_path import PLAIN
from loadtest.studies.overhead.ray_systems import RAY_SERVE_LLM, SERVE_PROXY_HANDLE

MIN_THROUGHPUT_RATIO = 0.97
MAX_ADDED_TTFT_P50_MS = 2.0
MAX_ADDED_TTFT_P95_MS = 10.0
# Of `/v1` over `/api/<tier>/v1`.
MIN_V1_THROUGHPUT_RATIO = 0.98
MAX_V1_ADDED_TTFT_P50_MS = 1.0


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


def v1_bar(compared: Mapping[str, Any]) -> dict[str, bool]:
    """The promises on `/v1`, compared with the tier's own route."""
    kept: dict[str, bool] = {}
    for level in ("1", "8", "32"):
        if level in compared:
            ratio = compared[level]["tokens_per_s_ratio"]["value"]
            added_ms = compared[level]["ttft_p50_added_ms"]["value"]
            over = f"{place_of(level)} on /v1"
            kept[f"tokens a second {over}: at least {MIN_V1_THROUGHPUT_RATIO} of /api/chat/v1"] = (
                ratio >= MIN_V1_THROUGHPUT_RATIO
            )
            kept[f"TTFT p50 {over}: at most {MAX_V1_ADDED_TTFT_P50_MS:g} ms over /api/chat/v1"] = (
                added_ms <= MAX_V1_ADDED_TTFT_P50_MS
            )
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
    argv: Sequence[str],
    model: str,
    engine: Mapping[str, Any],
) -> dict[str, Any]:
    over_bare = comparison(systems, measured)
    over_ours = comparison((OURS_V1,), measured, OURS) if OURS_V1 in systems else {}
    open_loop = next((level for level in plan.levels if isinstance(level, OpenLoop)), None)
    return {
        **provenance(argv),
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
        # What the gateway costs.
        "over_ours": over_ours,
        "bar": (bar(over_bare[OURS]) if OURS in over_bare else {})
        | v1_bar(over_ours.get(OURS_V1, {})),
    }


LABELS = {
    BARE: "bare vLLM server",
    BARE_BESIDE_OURS: "bare, beside an idle tierserve",
    OURS: "tierserve",
    OURS_V1: "tierserve, at `/v1`",
    RAY_SERVE_LLM: "Ray Serve LLM",
    SERVE_PROXY_HANDLE: "Serve proxy and handle",
}
HEADER = (
    "| streams | server | tokens/s | of bare | TTFT p50 | TTFT p95 | ITL p50 "
    "| CPU s per 1,000 tokens |",
    "|---:|---|---:|---:|---:|---:|---:|---:|",
)


def table(results: Mapping[str, Any]) -> str:
    systems = [name for name in results if name != META]
    levels = list(dict.fromkeys(level for name in systems for level in results[name]))
    lines = [_row(level, name, results) for level in levels for name in systems]
    meta = results[META]
    captions = [
        _caption(meta),
        *_beside(meta),
        *_at_v1(meta),
        *_parts(meta),
        *_pure_path(meta),
    ]
    return "\n".join([*HEADER, *lines, "", "\n\n".join(captions)])


def _row(level: str, system: str, results: Mapping[str, Any]) -> str:
    figures = results[system][level]
    over = results[META]["over_bare"].get(system, {}).get(level)
    cells = (
        place_of(level).removeprefix("at ").removeprefix("in the "),
        LABELS.get(system, system),
        f"{figures['tokens_per_s']:,.0f}",
        _interval(over["tokens_per_s_ratio"], 2) if over else "",
        _added(figures, over, "ttft_p50"),
        _added(figures, over, "ttft_p95"),
        _added(figures, over, "itl_p50"),
        f"{figures['cpu_s_per_ktoken']:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _added(figures: Mapping[str, float], over: Mapping[str, Any] | None, name: str) -> str:
    value = f"{figures[f'{name}_ms']:.1f}"
    return f"{value} ({over[f'{name}_added_ms']['value']:+.1f}) ms" if over else f"{value} ms"


def _caption(meta: Mapping[str, Any]) -> str:
    parts = [
        "Tokens a second also as a share of the bare server's in the same round, with a 95 % "
        "interval; in parentheses what is added to its TTFT and ITL."
    ]
    if meta["open_loop"]:
        rate = meta["open_loop"]["rate_rps"]
        parts.append(f"Open loop: {rate:g} requests a second (Poisson), however slow the answers.")
    if any(UNEQUAL in level for over in meta["over_bare"].values() for level in over):
        parts.append(
            "Of unequal length: half to one and a half times the tokens, so that prompts come one "
            "by one and not in waves."
        )
    if RAY_SERVE_LLM in meta["over_bare"]:
        parts.append(
            "Ray Serve LLM hands on the tokens of 50 ms in one go: an ITL of 0 is between tokens "
            "that came together."
        )
    parts += _bars(meta["bar"])
    parts.append(
        f"{_model(meta)}, {meta['output_tokens']} tokens an answer, {_rounds(meta)}{_starts(meta)}"
        f"{taken_on(meta)}; `make bench-overhead` measures it again."
    )
    return " ".join(parts)


def _model(meta: Mapping[str, Any]) -> str:
    name = meta.get("model", RANDOM)
    return "Small random Qwen2 (7M)" if name == RANDOM else f"Model `{name}`"


def _rounds(meta: Mapping[str, Any]) -> str:
    counts = {figures["rounds"] for over in meta["over_bare"].values() for figures in over.values()}
    return f"{max(counts)} rounds, " if counts else ""


def _starts(meta: Mapping[str, Any]) -> str:
    return f"{meta['starts']} starts of each server, " if meta.get("starts", 1) > 1 else ""


def _bars(bar: Mapping[str, bool]) -> list[str]:
    by_outcome = {
        word: [promise for promise, kept in bar.items() if kept is outcome]
        for word, outcome in (("Kept", True), ("Missed", False))
    }
    return [f"{word}: {'; '.join(promises)}." for word, promises in by_outcome.items() if promises]


def _beside(meta: Mapping[str, Any]) -> list[str]:
    over = meta.get("over_bare_beside_ours", {}).get(OURS)
    if not over:
        return []
    return [
        "Ray's processes use a share of these cores whether or not anyone asks. Over a bare "
        f"server beside a tierserve that nobody asks, tierserve has, {_by_level(over)}."
    ]


def _at_v1(meta: Mapping[str, Any]) -> list[str]:
    over = meta.get("over_ours", {}).get(OURS_V1)
    if not over:
        return []
    return [
        "`/v1` finds the tier by the request's `model` and asks it through the gateway. Over "
        f"`/api/chat/v1` of the same server it has, {_by_level(over)}."
    ]


def _by_level(over: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{place_of(level)}: {_interval(figures['tokens_per_s_ratio'], 2)} of its tokens a second, "
        f"TTFT p50 {figures['ttft_p50_added_ms']['value']:+.1f} ms and p95 "
        f"{figures['ttft_p95_added_ms']['value']:+.1f} ms"
        for level, figures in over.items()
    )


def _parts(meta: Mapping[str, Any]) -> list[str]:
    """Of bare's server and of tierserve only: the others are not built of the same parts."""
    by_part = meta.get("cpu_s_per_ktoken_by_part", {})
    if BARE not in by_part or OURS not in by_part:
        return []
    by_level = "; ".join(
        f"{place_of(level)} {by_part[BARE][level][SERVER]:.2f} and {ours[SERVER]:.2f}, "
        f"{ours[HAPROXY]:.2f} and {ours[RAY]:.2f}"
        for level, ours in by_part[OURS].items()
    )
    return [
        "CPU seconds per 1,000 tokens of vLLM's server and of tierserve's replica in its place, "
        f"both without the engine, then of HAProxy and of Ray with all else: {by_level}."
    ]


def _pure_path(meta: Mapping[str, Any]) -> list[str]:
    pure = meta.get("pure_path")
    if not pure:
        return []
    by_level = "; ".join(
        f"at {level} {pure[PLAIN][level]['chunks_per_s']:,.0f} and "
        f"{pure[OURS][level]['chunks_per_s']:,.0f}, {_interval(ratio, 2)} of it, "
        f"{pure[PLAIN][level]['cpu_s_per_kchunk'] * 1e3:.0f} and "
        f"{pure[OURS][level]['cpu_s_per_kchunk'] * 1e3:.0f} µs of CPU a chunk"
        for level, ratio in pure["chunks_per_s_ratio"].items()
    )
    said = (
        "The path alone, with the fake engine at full speed: chunks a second of its application on "
        f"a plain uvicorn and behind all of tierserve, by streams: {by_level}."
    )
    if OURS_V1 in pure:
        at_v1 = "; ".join(
            f"at {level} {pure[OURS_V1][level]['chunks_per_s']:,.0f}, {_interval(ratio, 2)} of it"
            for level, ratio in pure["v1_chunks_per_s_ratio"].items()
        )
        said += f" At `/v1`: {at_v1}."
    return [said]


def _interval(figure: Mapping[str, float], digits: int) -> str:
    value, low, high = (f"{figure[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
