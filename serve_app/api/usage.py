"""What each key has used: `GET /api/usage` for its owner and for admins, and the same of today as
metrics by the key's name.

The ledger has it in rows by UTC day, key, tier and model; nothing is counted here.
"""

import asyncio
import csv
import io
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from serve_app.api.access import LedgerLostError, ledger_away
from serve_app.config.usage import UsageConfig
from serve_app.core.access.access_key import AccessKey
from serve_app.core.access.caller import Caller
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError
from serve_app.telemetry import PREFIX

if TYPE_CHECKING:
    # It comes with SQLAlchemy, which web needs only where keys are on.
    from serve_app.access.usage import UsageRow

GROUPS = ("day", "key", "tier", "model")
COUNTS = ("requests", "refused", "prompt_tokens", "reasoning_tokens", "answer_tokens")
# As of `tierserve keys usage`.
DEFAULT_DAYS = 7
# The name under which the keys without series of their own are counted.
OTHER = "other"
# Metrics are asked for every few seconds, and must not hang with the ledger.
METRICS_WITHIN_S = 2.0
_AGO = re.compile(r"([1-9][0-9]{0,3})([dw])")
_DAYS = {"d": 1, "w": 7}
_FORMATS = ("json", "csv")
_TOKEN_KINDS = ("prompt", "reasoning", "answer")


class UsageSource(Protocol):
    """Where the rows are, and which keys there are."""

    async def usage(
        self, since_day: str | None, until_day: str | None, key: str | None
    ) -> Sequence["UsageRow"]:
        """Both days belong to it. Raises LedgerLostError."""
        ...

    def valid_keys(self) -> Sequence[AccessKey]:
        """As they were at most two seconds ago."""
        ...


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """What a request asks for; `group_by` has some of GROUPS, in their order."""

    since_day: str
    until_day: str | None
    key: str | None
    group_by: tuple[str, ...]
    as_csv: bool

    @classmethod
    def of(cls, given: Mapping[str, str], caller: Caller, today: date) -> "UsageQuery":
        """Raises RequestError: 401 without a key, 403 for another's usage, 400 for the rest."""
        if caller.key is None:
            raise RequestError(401, "Usage is that of a key: send yours.", code="invalid_api_key")
        for name in given:
            if name not in ("since", "until", "key", "group_by", "format"):
                raise _wrong(name, "is unknown here: since, until, key, group_by, format")
        key = given.get("key")
        if not caller.key.admin:
            if key not in (None, caller.key.name):
                raise RequestError(
                    403, "Another key's usage takes an admin key.", code="admin_key_required"
                )
            key = caller.key.name
        form = given.get("format", "json")
        if form not in _FORMATS:
            raise _wrong("format", "is json or csv")
        until = given.get("until")
        return cls(
            since_day=_day("since", given.get("since", f"{DEFAULT_DAYS}d"), today),
            until_day=None if until is None else _day("until", until, today),
            key=key,
            group_by=_groups(given.get("group_by")),
            as_csv=form == "csv",
        )


@dataclass(slots=True)
class UsagePages:
    """`now_s` gives the Unix time."""

    source: UsageSource
    config: UsageConfig
    tiers: Sequence[Tier]
    now_s: Callable[[], float] = time.time
    # The keys that have series of their own: one that has some keeps them.
    _labelled: dict[str, None] = field(default_factory=dict[str, None])

    async def answer(self, request: Request, caller: Caller) -> Response:
        """`GET /api/usage`."""
        query = UsageQuery.of(request.query_params, caller, self._today())
        try:
            rows = await self.source.usage(query.since_day, query.until_day, query.key)
        except LedgerLostError as lost:
            raise ledger_away("The ledger of usage does not answer.") from lost
        return await asyncio.to_thread(self._written, query, rows)

    async def metrics(self) -> list[Metric]:
        """Counters of today, which begin anew with each UTC day, as after a restart; none while
        the ledger is away."""
        try:
            async with asyncio.timeout(METRICS_WITHIN_S):
                rows = await self.source.usage(self._today().isoformat(), None, None)
        except (LedgerLostError, TimeoutError):
            return []
        return self._families(rows)

    def _written(self, query: UsageQuery, rows: Iterable["UsageRow"]) -> Response:
        grouped = group_rows(rows, query.group_by)
        data = [self._priced(row) for row in grouped]
        if query.as_csv:
            return PlainTextResponse(_as_csv(query.group_by, data), media_type="text/csv")
        (total,) = group_rows(grouped, ()) or [_nothing()]
        return JSONResponse(
            {
                "object": "list",
                "since": query.since_day,
                "until": query.until_day or self._today().isoformat(),
                "group_by": query.group_by,
                "price_per_gpu_hour": self.config.price_per_gpu_hour,
                "data": data,
                "total": self._priced(total),
            }
        )

    def _priced(self, row: Mapping[str, Any]) -> dict[str, Any]:
        price = self.config.price_per_gpu_hour
        cost = None if price is None else round(row["gpu_s"] / 3600 * price, 6)
        return {**row, "gpu_s": round(row["gpu_s"], 3), "cost": cost}

    def _families(self, rows: Sequence["UsageRow"]) -> list[Metric]:
        keys = {key.name: key for key in self.source.valid_keys()}
        grouped = group_rows(rows, ("key", "tier"))
        self._choose_labels(keys, grouped)
        sums: dict[tuple[str, str], dict[str, Any]] = {
            (name, tier.value): _nothing() for name in self._labelled for tier in self.tiers
        }
        for row in grouped:
            name = row["key"] if row["key"] in self._labelled else OTHER
            _add(sums.setdefault((name, row["tier"]), _nothing()), row)
        return [*_counters(sums), self._used_of_the_day(keys, sums), *self._price()]

    def _choose_labels(
        self, keys: Mapping[str, AccessKey], grouped: Sequence[Mapping[str, Any]]
    ) -> None:
        """The busiest first, as long as there is room."""
        tokens = dict.fromkeys(keys, 0)
        for row in grouped:
            tokens[row["key"]] = tokens.get(row["key"], 0) + _tokens(row)
        for name in [name for name in self._labelled if name not in tokens]:
            del self._labelled[name]
        for name in sorted(tokens, key=lambda name: (-tokens[name], name)):
            if len(self._labelled) >= self.config.labelled_keys:
                break
            self._labelled[name] = None

    def _used_of_the_day(
        self, keys: Mapping[str, AccessKey], sums: Mapping[tuple[str, str], Mapping[str, Any]]
    ) -> Metric:
        used = GaugeMetricFamily(
            f"{PREFIX}_key_day_tokens_used_ratio",
            "Of a key's tokens_per_day, what is used up since midnight UTC.",
            labels=["key"],
        )
        for name in self._labelled:
            limit = keys[name].limits.tokens_per_day if name in keys else None
            if limit:
                tokens = sum(_tokens(row) for (of, _), row in sums.items() if of == name)
                used.add_metric([name], tokens / limit)
        return used

    def _price(self) -> list[Metric]:
        if self.config.price_per_gpu_hour is None:
            return []
        price = GaugeMetricFamily(f"{PREFIX}_price_per_gpu_hour", "As the operator has set it.")
        price.add_metric([], self.config.price_per_gpu_hour)
        return [price]

    def _today(self) -> date:
        return datetime.fromtimestamp(self.now_s(), UTC).date()


def group_rows(
    rows: Iterable["UsageRow | Mapping[str, Any]"], group_by: Sequence[str]
) -> list[dict[str, Any]]:
    """Sums by these columns, in the order of the first row of each."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        given = row if isinstance(row, Mapping) else _fields(row)
        group = tuple(given[name] for name in group_by)
        into = groups.get(group)
        if into is None:
            into = groups[group] = {**dict(zip(group_by, group, strict=True)), **_nothing()}
        _add(into, given)
    return list(groups.values())


def _fields(row: "UsageRow") -> dict[str, Any]:
    return {name: getattr(row, name) for name in (*GROUPS, *COUNTS, "gpu_s")}


def _nothing() -> dict[str, Any]:
    return {**dict.fromkeys(COUNTS, 0), "gpu_s": 0.0}


def _add(into: dict[str, Any], row: Mapping[str, Any]) -> None:
    for name in (*COUNTS, "gpu_s"):
        into[name] += row[name]


def _tokens(row: Mapping[str, Any]) -> int:
    return sum(row[f"{kind}_tokens"] for kind in _TOKEN_KINDS)


def _counters(sums: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Metric]:
    labels = ["key", "tier"]

    def counter(name: str, text: str, *more: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"{PREFIX}_key_{name}", text, labels=[*labels, *more])

    requests = counter("requests", "Requests of a key that were served, today in UTC.")
    refused = counter("refused", "Requests of a key that were refused, today in UTC.")
    tokens = counter("tokens", "Tokens of a key, today in UTC.", "kind")
    gpu_s = counter("gpu_seconds", "Of a whole GPU, what a key has used today in UTC.")
    for (name, tier), row in sums.items():
        requests.add_metric([name, tier], row["requests"])
        refused.add_metric([name, tier], row["refused"])
        gpu_s.add_metric([name, tier], row["gpu_s"])
        for kind in _TOKEN_KINDS:
            tokens.add_metric([name, tier, kind], row[f"{kind}_tokens"])
    return [requests, refused, tokens, gpu_s]


def _as_csv(group_by: Sequence[str], data: Iterable[Mapping[str, Any]]) -> str:
    """A name that a spreadsheet would take for a formula gets an apostrophe."""
    columns, file = (*group_by, *COUNTS, "gpu_s", "cost"), io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in data:
        values = ("" if row[name] is None else row[name] for name in columns)
        writer.writerow(
            f"'{value}"
            if isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
            else value
            for value in values
        )
    return file.getvalue()


def _day(param: str, text: str, today: date) -> str:
    """A UTC day, or so many days ago."""
    if ago := _AGO.fullmatch(text):
        return (today - timedelta(days=int(ago[1]) * _DAYS[ago[2]])).isoformat()
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise _wrong(param, "is a day, such as 2026-11-01, or how long ago, as 30d or 4w") from None


def _groups(text: str | None) -> tuple[str, ...]:
    if text is None:
        return GROUPS
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    if not set(chosen) <= set(GROUPS):
        raise _wrong("group_by", f"has some of {', '.join(GROUPS)}")
    return tuple(name for name in GROUPS if name in chosen)


def _wrong(param: str, what: str) -> RequestError:
    shown = param[:64]
    return RequestError(400, f"`{shown}` {what}.", param=shown, code="invalid_parameter")
