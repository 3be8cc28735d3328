"""Recorded traffic: when requests came, how long they and their answers were, and whose."""

import csv
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import UserError
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

CONTEXT_TOKENS = 4096
DAY_S = 86_400.0
COLUMNS = ("arrival_s", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Request:
    """`limit` is the most new tokens that it may have: the tier's, as a rule."""

    tier: Tier
    arrival_s: float
    prompt_tokens: int
    new_tokens: int
    limit: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival; `clipped` were longer than their tier or the context allows.

    `times`: so many such loads at once (`loadtest/simulation/arrivals.py` says how). `day`: 24
    hours of it, along a curve.
    """

    requests: tuple[Request, ...]
    clipped: int = 0
    times: float = 1.0
    day: bool = False

    @property
    def recorded_s(self) -> float:
        """Until the last arrival of what was recorded."""
        return self.requests[-1].arrival_s

    @property
    def duration_s(self) -> float:
        return DAY_S if self.day else self.recorded_s

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tiers that have requests."""
        present = {request.tier for request in self.requests}
        return tuple(tier for tier in Tier if tier in present)

    @property
    def expected_requests(self) -> float:
        """How many there are with `times` and `day`; their number then is a matter of chance."""
        repeats = DAY_S / max(self.recorded_s, 1e-9) if self.day else 1.0
        return len(self.requests) * self.times * repeats


@dataclass(frozen=True, slots=True)
class Recorded:
    """A line of the file: lengths as recorded."""

    tier: Tier
    arrival_s: float
    input_tokens: int
    output_tokens: int


def read_trace(path: Path, *, tier: Tier | None, rate: float = 1.0) -> Trace:
    """A CSV file, gzipped or not, with `arrival_s,input_tokens,output_tokens[,tier]`.

    `tier` is whose requests they are where the file has no such column. With `rate` 2 they come
    twice as fast. Lengths are clipped as the server would: answers at the tier's limit, prompts at
    what the context leaves. Raises UserError.
    """
    requests: list[Request] = []
    clipped = 0
    for record in recorded(path, tier=tier, rate=rate):
        limit = DEFAULT_MAX_NEW_TOKENS[record.tier]
        prompt, answer = record.input_tokens, record.output_tokens
        fitting_prompt = max(1, min(prompt, CONTEXT_TOKENS - limit))
        fitting_answer = max(1, min(answer, limit))
        clipped += (fitting_prompt, fitting_answer) != (max(1, prompt), max(1, answer))
        requests.append(
            Request(record.tier, record.arrival_s, fitting_prompt, fitting_answer, limit)
        )
    if not requests:
        raise UserError(f"{path} has no requests")
    return Trace(tuple(sorted(requests, key=lambda request: request.arrival_s)), clipped)


def recorded(path: Path, *, tier: Tier | None, rate: float = 1.0) -> Iterator[Recorded]:
    """The file's lines in its order, nothing clipped. Raises UserError."""
    for number, row in _rows(path):
        try:
            owner = Tier(row["tier"].strip()) if row.get("tier") else tier
            arrival_s = float(row["arrival_s"] or "nan") / rate
            if not arrival_s >= 0:
                raise ValueError(f"arrival_s is {row['arrival_s']!r}")
            prompt, answer = (int(float(row[name])) for name in COLUMNS[1:])
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        if owner is None:
            raise UserError(f"{path} has no column `tier`: say whose requests with --tier")
        if prompt < 0 or answer < 0:
            raise UserError(f"{path}, line {number}: a negative number")
        yield Recorded(owner, arrival_s, prompt, answer)


def merged(traces: Sequence[Trace]) -> Trace:
    """All their requests, until the first of them ends."""
    end_s = min(trace.duration_s for trace in traces)
    requests = [r for trace in traces for r in trace.requests if r.arrival_s <= end_s]
    requests.sort(key=lambda request: request.arrival_s)
    return Trace(tuple(requests), sum(trace.clipped for trace in traces))


def tier_of_file(path: Path) -> Tier | None:
    """Whose requests a file without a column `tier` has: reasoning's where it counts the tokens of
    reasoning, chat's otherwise. None where the column is there."""
    _, first = next(_rows(path), (0, {}))
    if "tier" in first:
        return None
    return Tier.REASONING if "reasoning_tokens" in first else Tier.CHAT


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path} does not have the columns {', '.join(missing)}")
            yield from enumerate(reader, start=2)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
