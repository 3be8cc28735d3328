"""What was served: rows by UTC day, key, tier and model."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import sqlalchemy as sa

from serve_app.access.database import Database, usage

COLUMNS = (
    "day",
    "key",
    "tier",
    "model",
    "requests",
    "refused",
    "prompt_tokens",
    "reasoning_tokens",
    "answer_tokens",
    "gpu_s",
)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """`day` is `2026-11-29`, in UTC; `gpu_s` are seconds of a whole GPU."""

    day: str
    key: str
    tier: str
    model: str
    requests: int
    refused: int
    prompt_tokens: int
    reasoning_tokens: int
    answer_tokens: int
    gpu_s: float

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "gpu_s": round(self.gpu_s, 3)}


def read_usage(
    database: Database,
    *,
    since_day: str | None = None,
    until_day: str | None = None,
    key: str | None = None,
) -> list[UsageRow]:
    """Both days belong to it. Raises KeyStoreError where the database fails."""
    query = sa.select(*(usage.c[name] for name in COLUMNS)).order_by(
        usage.c.day, usage.c.key, usage.c.tier, usage.c.model
    )
    if since_day is not None:
        query = query.where(usage.c.day >= since_day)
    if until_day is not None:
        query = query.where(usage.c.day <= until_day)
    if key is not None:
        query = query.where(usage.c.key == key)
    with database.reading() as connection:
        return [UsageRow(*row) for row in connection.execute(query)]


def write_csv(rows: Iterable[UsageRow], file: TextIO) -> None:
    """With a head; a name that a spreadsheet would take for a formula gets an apostrophe."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = row.as_json()
        writer.writerow(_inert(values[column]) for column in COLUMNS)


def _inert(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value
