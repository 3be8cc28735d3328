"""Does memory, do file handles, threads, series, logs or shared memory grow while the load is the
same? Baselines are compared with baselines, a process with itself."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from loadtest.report.formatting import mib
from loadtest.report.statistics import Points, sen_slope, span_s
from loadtest.servers.processes import OTHER
from loadtest.soak.observations import Observations
from loadtest.soak.plan import HOUR_S
from loadtest.soak.verdicts import Row, Verdict, of_interval, of_limit

# What a slope is extrapolated to: the acceptance.
HORIZON_S = 72 * HOUR_S
MOST_SHARE = 0.2
MOST_BYTES = 200 * 2**20
# A process' memory settles in the beginning, and a slope over minutes says nothing of days.
SETTLED_S = 600.0
SETTLED_SHARE = 0.05
LEAST_SPAN_S = HOUR_S
MOST_MORE = {"handles": (20, 0.1), "threads": (10, 0.1), "count": (1, 0.0)}
TITLES = {"handles": "file handles", "threads": "threads", "count": "processes"}
MOST_SESSION_BYTES = 10 * 2**30
LEAST_LOG_SPAN_S = 300.0
MOST_SHARED_BYTES = 64 * 2**20


def growth_rows(observed: Observations) -> Iterator[Row]:
    """Of all that is seen of the server; its processes only where it is the soak's own."""
    for role in sorted(observed.roles):
        yield memory_row(role, series_of(observed, role))
    if observed.roles:
        yield from (_worst_role(observed, name) for name in MOST_MORE)
    yield _more(observed, "series", "series of GET /metrics", 50, 0.1, _count)
    yield _more(observed, "metrics_bytes", "size of GET /metrics", 65536, 0.1, _kib)
    if observed.roles:
        yield _more(
            *(observed, "shared_memory_bytes", "shared memory, whole machine"),
            *(MOST_SHARED_BYTES, 0.0, mib),
        )
        yield _session(observed)


def series_of(observed: Observations, role: str) -> list[Points]:
    """The median of each baseline, of each process by itself once it has settled. Of processes
    that come and go as Ray likes the sum is taken."""
    if role == OTHER:
        totals = observed.roles[role]["memory_bytes"]
        return [_medians(observed, list(zip(observed.at_s, totals, strict=True)))]
    settled_s = min(SETTLED_S, SETTLED_SHARE * observed.meta["plan"]["duration_s"])
    found: list[Points] = []
    for samples in observed.processes.get(role, {}).values():
        old_s = samples[0][0] + settled_s
        points = _medians(observed, [sample for sample in samples if sample[0] >= old_s])
        if points:
            found.append(points)
    return found


def memory_row(role: str, series: Sequence[Points]) -> Row:
    """Fails if a process has grown beyond the limit already, or surely would in 72 hours."""
    name = f"memory of {role}"
    if not series:
        return Row(
            "memory", name, "--", "", Verdict.SHORT, "no process outlived a settled baseline"
        )
    start = float(np.median([points[0][1] for points in series]))
    most = max(MOST_BYTES, MOST_SHARE * start)
    limit = f"{mib(most)} in 72 h"
    grown = max(points[-1][1] - points[0][1] for points in series)
    seen_s = span_s(series)
    value = f"{_signed(grown)} in {_hours(seen_s)}, from {mib(start)}"
    if grown > most:
        return Row("memory", name, value, limit, Verdict.FAIL, "has grown beyond the limit already")
    slope = sen_slope(series)
    if slope is None or seen_s < LEAST_SPAN_S or not math.isfinite(slope.low):
        reason = "a slope needs an hour of one process, and more baselines than three"
        return Row("memory", name, value, limit, Verdict.SHORT, reason)
    low, mid, high = (HORIZON_S * per_s for per_s in (slope.low, slope.value, slope.high))
    verdict = of_interval(low, high, most)
    reason = f"95 %: {_signed(low)} to {_signed(high)} (Sen's slope of {len(series)} processes)"
    return Row("memory", name, f"{_signed(mid)} in 72 h, from {mib(start)}", limit, verdict, reason)


def _medians(
    observed: Observations, samples: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """A point for each baseline that has samples: when it began, and the median."""
    inside: dict[int, list[float]] = {}
    for at_s, value in samples:
        place = observed.baseline_of(at_s)
        if place is not None and not math.isnan(value):
            inside.setdefault(place, []).append(value)
    return [(observed.baselines[place][0], float(np.median(of))) for place, of in inside.items()]


def _worst_role(observed: Observations, what: str) -> Row:
    """The role that is furthest above what it may have more than in the first baseline."""
    least, fraction = MOST_MORE[what]
    found = []
    for role, columns in observed.roles.items():
        points = _medians(observed, list(zip(observed.at_s, columns[what], strict=True)))
        if len(points) > 1:
            first, last = points[0][1], points[-1][1]
            found.append((last - first - max(least, fraction * first), role, first, last))
    name = f"{TITLES[what]}, by role"
    limit = f"{least:g} more" + (f", or {fraction:.0%}" if fraction else "")
    if not found:
        return Row("growth", name, "--", limit, Verdict.SHORT, "one baseline alone")
    above, role, first, last = max(found)
    value = f"{role}: {first:.0f} → {last:.0f}" if last > first else "no role has more"
    reason = "the role nearest to its limit; first and last baseline"
    return Row("growth", name, value, limit, of_limit(above <= 0), reason)


def _more(
    observed: Observations,
    key: str,
    name: str,
    least: float,
    fraction: float,
    words: Callable[[float], str],
) -> Row:
    points = _medians(observed, list(zip(observed.at_s, observed.scalars[key], strict=True)))
    limit = f"{words(least)} more" + (f", or {fraction:.0%}" if fraction else "")
    if len(points) < 2:
        return Row("growth", name, "--", limit, Verdict.SHORT, "one baseline alone")
    first, last = points[0][1], points[-1][1]
    ok = last - first <= max(least, fraction * first)
    value = f"{words(first)} → {words(last)}"
    return Row("growth", name, value, limit, of_limit(ok), "first and last baseline")


def _session(observed: Observations) -> Row:
    """Of Ray's session: logs above all."""
    points = _medians(
        observed, list(zip(observed.at_s, observed.scalars["session_bytes"], strict=True))
    )
    name, limit = "Ray's session folder, logs", f"{mib(MOST_SESSION_BYTES)} in 72 h"
    if len(points) < 2 or points[-1][0] - points[0][0] < LEAST_LOG_SPAN_S:
        return Row("growth", name, "--", limit, Verdict.SHORT, "needs five minutes of baselines")
    took_s, grown = points[-1][0] - points[0][0], points[-1][1] - points[0][1]
    in_72_h = grown / took_s * HORIZON_S
    value = f"{_signed(in_72_h)} in 72 h"
    reason = f"{_signed(grown)} in {_hours(took_s)}"
    return Row("growth", name, value, limit, of_limit(in_72_h <= MOST_SESSION_BYTES), reason)


def _signed(value_bytes: float) -> str:
    return f"{value_bytes / 2**20:+,.1f} MiB"


def _hours(value_s: float) -> str:
    return f"{value_s / 60:.0f} min" if value_s < 2 * HOUR_S else f"{value_s / HOUR_S:.1f} h"


def _kib(value_bytes: float) -> str:
    return f"{value_bytes / 1024:,.0f} KiB"


def _count(value: Any) -> str:
    return f"{value:,.0f}"
