"""A row of a soak's judgement, and what all rows together come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    # More time could say it: neither a pass nor a failure.
    SHORT = "too short to tell"
    # Was not looked at, and the reason says why.
    SKIPPED = "not judged"


@dataclass(frozen=True, slots=True)
class Row:
    """`value` and `limit` in words; `reason` says what was compared, or why there is no more."""

    group: str
    name: str
    value: str
    limit: str
    verdict: Verdict
    reason: str = ""


def overall(rows: Sequence[Row]) -> Verdict:
    """One failure fails it all. It passes only if nothing was too short to tell."""
    found = {row.verdict for row in rows}
    for verdict in (Verdict.FAIL, Verdict.SHORT):
        if verdict in found:
            return verdict
    return Verdict.PASS


def of_limit(ok: bool) -> Verdict:
    return Verdict.PASS if ok else Verdict.FAIL


def of_interval(low: float, high: float, most: float) -> Verdict:
    """Surely above the limit, surely not, or the interval holds it."""
    if low > most:
        return Verdict.FAIL
    return Verdict.PASS if high <= most else Verdict.SHORT
