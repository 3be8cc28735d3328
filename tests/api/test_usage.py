"""`GET /api/usage` and the metrics by key: whose usage who sees, its sums, and its bounds."""

import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serve_app.access.usage import UsageRow
from serve_app.api.access import AccessDesk, LedgerLostError
from serve_app.api.gateway import Gateway
from serve_app.api.usage import GROUPS, OTHER, UsagePages, group_rows
from serve_app.api.web_app import make_web_app
from serve_app.config.usage import UsageConfig
from serve_app.core.access.access_key import AccessKey
from tests.api.fake_keys import ADMIN, TEAM, FakeKeys, a_key
from tests.api.web_client import BOTH, FakeTiers

# 2026-11-29 12:00 UTC.
NOW_S = 1_795_953_600.0
TODAY = "2026-11-29"


def a_row(key: str = "team", day: str = TODAY, tier: str = "chat", **counts: Any) -> UsageRow:
    given: dict[str, Any] = {
        "requests": 1,
        "refused": 0,
        "prompt_tokens": 10,
        "reasoning_tokens": 20,
        "answer_tokens": 30,
        "gpu_s": 36.0,
    }
    return UsageRow(day, key, tier, "org/model", **(given | counts))


@dataclass
class FakeLedger:
    rows: Sequence[UsageRow] = ()
    known: Sequence[AccessKey] = ()
    lost: bool = False
    asked: list[tuple[str | None, str | None, str | None]] = field(default_factory=list)

    async def usage(
        self, since_day: str | None, until_day: str | None, key: str | None
    ) -> Sequence[UsageRow]:
        self.asked.append((since_day, until_day, key))
        if self.lost:
            raise LedgerLostError
        return [
            row
            for row in self.rows
            if (since_day or "") <= row.day <= (until_day or "9") and key in (None, row.key)
        ]

    def valid_keys(self) -> Sequence[AccessKey]:
        return self.known


@asynccontextmanager
async def a_client(
    ledger: FakeLedger | None = None,
    *,
    key: bytes = TEAM,
    keys_on: bool = True,
    allow_anonymous: bool = False,
    **config: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    async def base_url() -> str:
        return ""

    pages = UsagePages(ledger or FakeLedger(), UsageConfig(**config), BOTH, lambda: NOW_S)
    app = make_web_app(
        BOTH,
        FakeTiers(),
        Gateway(base_url, BOTH, 1024),
        access=AccessDesk(FakeKeys() if keys_on else None, allow_anonymous=allow_anonymous),
        usage=pages if keys_on else None,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {key.decode()}"} if key else {}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://web", headers=headers
    ) as client:
        yield client


TWO_KEYS = (a_row(), a_row("other-team"), a_row(day="2026-11-28"), a_row(tier="reasoning"))


async def test_an_owner_sees_his_own_usage_and_an_admin_all() -> None:
    async with a_client(FakeLedger(TWO_KEYS)) as client:
        own = (await client.get("/api/usage")).json()
        assert (await client.get("/api/usage", params={"key": "team"})).json() == own
    assert {row["key"] for row in own["data"]} == {"team"}
    assert own["total"]["requests"] == 3
    async with a_client(FakeLedger(TWO_KEYS), key=ADMIN) as client:
        every = (await client.get("/api/usage")).json()
        one = (await client.get("/api/usage", params={"key": "other-team"})).json()
    assert {row["key"] for row in every["data"]} == {"team", "other-team"}
    assert one["total"]["requests"] == 1


async def test_another_keys_usage_is_refused_and_nobody_is_asked_for_it() -> None:
    ledger = FakeLedger(TWO_KEYS)
    async with a_client(ledger) as client:
        answer = await client.get("/api/usage", params={"key": "other-team"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_key_required")
    assert ledger.asked == []


@pytest.mark.parametrize("allow_anonymous", [False, True])
async def test_usage_is_that_of_a_key(allow_anonymous: bool) -> None:
    async with a_client(key=b"", allow_anonymous=allow_anonymous) as client:
        answer = await client.get("/api/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_without_keys_there_is_no_usage_and_the_answer_says_how_to_turn_them_on() -> None:
    async with a_client(keys_on=False) as client:
        answer = await client.get("/api/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "keys_off")
    assert "--keys" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("since", "until", "asked"),
    [
        (None, None, ("2026-11-22", None)),
        ("30d", None, ("2026-10-30", None)),
        ("2w", "2026-11-20", ("2026-11-15", "2026-11-20")),
        ("2026-01-31", "1d", ("2026-01-31", "2026-11-28")),
    ],
)
async def test_since_is_a_day_or_how_long_ago(
    since: str | None, until: str | None, asked: tuple[str, str | None]
) -> None:
    ledger = FakeLedger()
    params = {name: value for name, value in (("since", since), ("until", until)) if value}
    async with a_client(ledger) as client:
        said = (await client.get("/api/usage", params=params)).json()
    assert ledger.asked == [(*asked, "team")]
    assert (said["since"], said["until"]) == (asked[0], asked[1] or TODAY)
    assert said["data"] == []
    assert said["total"]["requests"] == 0


@pytest.mark.parametrize(
    "params",
    [
        {"since": "yesterday"},
        {"since": "2026-02-30"},
        {"since": "-1d"},
        {"since": "99999d"},
        {"until": ""},
        {"group_by": "secret"},
        {"format": "xml"},
        {"sinc": "7d"},
        {"x" * 999: "1"},
    ],
)
async def test_a_wrong_parameter_is_named(params: dict[str, str]) -> None:
    async with a_client() as client:
        answer = await client.get("/api/usage", params=params)
    assert answer.status_code == 400
    (name,) = params
    assert answer.json()["error"]["param"] == name[:64]
    assert len(answer.text) < 500


async def test_rows_are_summed_by_what_is_asked_for() -> None:
    async with a_client(FakeLedger(TWO_KEYS), key=ADMIN) as client:
        by_day = (await client.get("/api/usage", params={"group_by": "day"})).json()
        by_both = (await client.get("/api/usage", params={"group_by": "tier, key"})).json()
    assert [(row["day"], row["requests"]) for row in by_day["data"]] == [
        (TODAY, 3),
        ("2026-11-28", 1),
    ]
    assert by_both["group_by"] == ["key", "tier"]
    assert by_both["data"][0] == {
        "key": "team",
        "tier": "chat",
        "requests": 2,
        "refused": 0,
        "prompt_tokens": 20,
        "reasoning_tokens": 40,
        "answer_tokens": 60,
        "gpu_s": 72.0,
        "cost": None,
    }


async def test_cost_is_the_part_of_a_gpu_hour_that_was_used() -> None:
    async with a_client(FakeLedger(TWO_KEYS), price_per_gpu_hour=0.5) as client:
        said = (await client.get("/api/usage")).json()
    assert said["price_per_gpu_hour"] == 0.5
    assert [row["cost"] for row in said["data"]] == [0.005] * 3
    assert said["total"]["cost"] == 0.015


async def test_csv_has_the_same_rows_and_no_formulas() -> None:
    ledger = FakeLedger([*TWO_KEYS, a_row('=HYPERLINK("x")')])
    async with a_client(ledger, key=ADMIN, price_per_gpu_hour=1) as client:
        answer = await client.get("/api/usage", params={"format": "csv"})
        said = (await client.get("/api/usage")).json()
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(rows[0]) == [*GROUPS, *list(said["data"][0])[4:]]
    assert [float(row["cost"]) for row in rows] == [row["cost"] for row in said["data"]]
    assert rows[-1]["key"] == '\'=HYPERLINK("x")'


async def test_a_ledger_that_is_away_is_503_with_a_time_to_retry_and_the_metrics_go_on() -> None:
    async with a_client(FakeLedger(lost=True), key=ADMIN) as client:
        answer = await client.get("/api/usage")
        metrics = await client.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert answer.headers["retry-after"]
    assert metrics.status_code == 200
    assert "tierserve_key_" not in metrics.text
    assert "tierserve_replicas_reporting" in metrics.text


@given(
    st.lists(
        st.builds(
            a_row,
            key=st.sampled_from("abc"),
            day=st.sampled_from([TODAY, "2026-11-28"]),
            tier=st.sampled_from(["chat", "reasoning"]),
            answer_tokens=st.integers(0, 10**9),
            gpu_s=st.integers(0, 10**6).map(float),
        )
    ),
    st.sets(st.sampled_from(GROUPS)),
)
def test_no_grouping_loses_or_adds_anything(rows: list[UsageRow], groups: set[str]) -> None:
    grouped = group_rows(rows, [name for name in GROUPS if name in groups])
    for name in ("requests", "answer_tokens", "gpu_s"):
        assert sum(row[name] for row in grouped) == sum(getattr(row, name) for row in rows)
    assert len({json.dumps([row.get(name) for name in GROUPS]) for row in grouped}) == len(grouped)


# --- metrics by key


async def series(ledger: FakeLedger, **config: Any) -> dict[tuple[str, ...], float]:
    """Each sample by its name, and the values of its labels in the order of their names."""
    async with a_client(ledger, key=ADMIN, **config) as client:
        return _samples((await client.get("/metrics")).text)


def _samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (
            sample.name.removeprefix("tierserve_"),
            *(sample.labels[label] for label in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_today_by_key_and_tier_from_zero() -> None:
    ledger = FakeLedger(
        [a_row(), a_row(refused=2), a_row(day="2026-11-28")],
        [a_key(tokens_per_day=240), a_key("idle")],
    )
    found = await series(ledger, price_per_gpu_hour=2)
    assert ledger.asked == [(TODAY, None, None)]
    assert found["key_requests_total", "team", "chat"] == 2
    assert found["key_refused_total", "team", "chat"] == 2
    assert found["key_tokens_total", "team", "reasoning", "chat"] == 40
    assert found["key_gpu_seconds_total", "team", "chat"] == 72
    assert found["key_requests_total", "idle", "reasoning"] == 0
    assert found["key_day_tokens_used_ratio", "team"] == 0.5
    assert ("key_day_tokens_used_ratio", "idle") not in found
    assert found["price_per_gpu_hour",] == 2


async def test_only_so_many_keys_have_series_of_their_own_the_busiest_first() -> None:
    rows = [a_row(f"k{number}", answer_tokens=number) for number in range(9)]
    found = await series(FakeLedger(rows), labelled_keys=2)
    requests = {
        name: sum(found["key_requests_total", name, tier.value] for tier in BOTH)
        for name in ("k7", "k8")
    }
    requests[OTHER] = found["key_requests_total", OTHER, "chat"]
    assert requests == {"k7": 1, "k8": 1, OTHER: 7}
    assert {name[1] for name in found if name[0] == "key_requests_total"} == requests.keys()
    assert sum(requests.values()) == len(rows)


async def test_a_key_keeps_its_series_and_makes_room_once_it_is_gone() -> None:
    ledger = FakeLedger([a_row("a")], [a_key("a"), a_key("b")])
    pages = UsagePages(ledger, UsageConfig(labelled_keys=1), BOTH, lambda: NOW_S)

    async def names() -> set[str]:
        families = await pages.metrics()
        return {sample.labels["key"] for sample in families[0].samples}

    assert await names() == {"a"}
    ledger.rows = [a_row("a"), a_row("b", answer_tokens=10**6)]
    assert await names() == {"a", OTHER}
    ledger.rows, ledger.known = [a_row("b")], [a_key("b")]
    assert await names() == {"b"}


async def test_no_key_at_all_has_series_where_none_is_wanted() -> None:
    found = await series(FakeLedger([a_row()], [a_key()]), labelled_keys=0)
    assert {name[1] for name in found if name[0] == "key_requests_total"} == {OTHER}
