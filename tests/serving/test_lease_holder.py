"""A replica's side of quotas before a real ledger that a test may cut off."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serve_app.access.credentials import load_pepper
from serve_app.access.database import Database, open_database
from serve_app.access.key_store import KeyStore
from serve_app.access.ledger import Ledger
from serve_app.api.access import LedgerLostError, QuotaExceededError
from serve_app.config.access import AccessConfig
from serve_app.core.access.access_key import AccessKey, KeyLimits
from serve_app.core.access.lease import Amounts, LedgerAnswer, ReplicaReport, Usage
from serve_app.core.access.lease_book import LeaseBook
from serve_app.errors import RequestError
from serve_app.serving.lease_holder import LeaseGrant, LeaseHolder
from tests.virtual_time import now_s, virtual

NEED = Amounts(requests=1, tokens=100, concurrent=1)
QUICK = AccessConfig(database="x", report_period_s=0.02, acknowledge_within_s=0.2)


@dataclass
class Line:
    """The way to the ledger. `cut`: nobody answers; `slow_s`: answers are late, and with
    `hangs_on_reserved` those to reports of running requests never come."""

    ledger: Ledger
    cut: bool = False
    slow_s: float = 0.0
    hangs_on_reserved: bool = False
    reports: int = 0

    async def report(self, report: ReplicaReport) -> LedgerAnswer:
        self.reports += 1
        hangs = self.hangs_on_reserved and any(key.reserved.tokens for key in report.keys.values())
        await asyncio.sleep(60.0 if hangs else self.slow_s)
        if self.cut:
            raise LedgerLostError("cut")
        return self.ledger.report(report)


@dataclass
class Scene:
    """A ledger with the key `team`, and replicas that report to it."""

    database: Database
    ledger: Ledger
    store: KeyStore
    secret: str
    lines: list[Line] = field(default_factory=list)

    @asynccontextmanager
    async def holder(self, config: AccessConfig = QUICK) -> AsyncIterator[tuple[LeaseHolder, Line]]:
        line = Line(self.ledger)
        pepper = load_pepper(self.database.address)
        book = LeaseBook(f"replica-{len(self.lines)}")
        holder = LeaseHolder(book, line.report, pepper, config, now_s)
        self.lines.append(line)
        running = asyncio.create_task(holder.run())
        assert await holder.until_loaded(5)
        try:
            yield holder, line
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


def a_scene(tmp_path: Path, **limits: Any) -> Scene:
    database = open_database(str(tmp_path / "keys.sqlite"), create=True)
    store = KeyStore(database, load_pepper(database.address, create=True))
    secret = store.add(AccessKey("team", limits=KeyLimits(**limits))).reveal()
    began_s = time.time()
    ledger = Ledger(database, lambda: began_s + loop_s(), offline_leases=True)
    return Scene(database, ledger, store, secret)


def loop_s() -> float:
    """0 before the loop runs."""
    try:
        return now_s()
    except RuntimeError:
        return 0.0


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = a_scene(tmp_path, tokens_per_day=1000, max_concurrent=100)
    yield made
    made.database.close()


def key_of(holder: LeaseHolder, scene: Scene) -> AccessKey:
    key = holder.find(scene.secret.encode())
    assert key is not None
    return key


async def reserve(holder: LeaseHolder, scene: Scene) -> LeaseGrant:
    grant = await holder.reserve(key_of(holder, scene), NEED)
    assert isinstance(grant, LeaseGrant)
    return grant


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - any condition of a test's
            await asyncio.sleep(0.005)


@virtual
async def test_a_key_is_found_and_one_that_comes_or_goes_within_two_reports(scene: Scene) -> None:
    async with scene.holder() as (holder, _):
        assert key_of(holder, scene).name == "team"
        assert holder.find(b"ts-" + b"x" * 52) is None
        later = scene.store.add(AccessKey("later")).reveal().encode()
        await until(lambda: holder.find(later) is not None)
        scene.store.revoke("later")
        await until(lambda: holder.find(later) is None)


@virtual
async def test_a_reservation_is_acknowledged_once_the_ledger_has_it(scene: Scene) -> None:
    async with scene.holder() as (holder, line):
        line.slow_s = 0.05
        grant = await reserve(holder, scene)
        assert grant.reservation is not None
        await grant.acknowledged()
        assert holder.book.acknowledged(grant.reservation)


@virtual
async def test_a_burst_over_two_replicas_gets_exactly_what_fits(scene: Scene) -> None:
    async with scene.holder() as (one, _), scene.holder() as (other, _):
        asked = [reserve(holder, scene) for _ in range(16) for holder in (one, other)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        granted = [result for result in results if isinstance(result, LeaseGrant)]
        refused = [result for result in results if isinstance(result, QuotaExceededError)]
        assert (len(granted), len(refused)) == (10, 22)
        assert {error.refusal.limit for error in refused} == {"tokens_per_day"}


@virtual
async def test_what_is_not_used_comes_back_and_another_replica_may_have_it(scene: Scene) -> None:
    async with scene.holder() as (one, _), scene.holder() as (other, _):
        grants = [await reserve(one, scene) for _ in range(10)]
        for grant in grants[:5]:
            grant.settle(Usage(requests=1, prompt_tokens=20, answer_tokens=30))
        for grant in grants[5:8]:
            grant.settle(None)
        grants[8].lower(40)
        await until(lambda: not one.book.report_due)
        await asyncio.sleep(0.1)
        # 5 x 50 + 3 x 100 + 60 have come back.
        took = [await reserve(other, scene) for _ in range(6)]
        assert len(took) == 6
        with pytest.raises(QuotaExceededError):
            await reserve(other, scene)


@pytest.mark.parametrize("mode", ["refuse", "open"])
@virtual
async def test_without_its_ledger_a_replica_goes_on_with_what_is_leased(
    scene: Scene, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = QUICK.model_copy(update={"on_ledger_loss": mode})
    async with scene.holder(config) as (holder, line):
        # One that has been served leaves a lease for the next.
        (await reserve(holder, scene)).settle(Usage(requests=1, answer_tokens=100))
        await asyncio.sleep(0.2)
        line.cut = True
        await until(lambda: not holder.up)
        grant = await reserve(holder, scene)
        assert grant.reservation is not None
        await grant.acknowledged()
        if mode == "refuse":
            asked = [reserve(holder, scene) for _ in range(10)]
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(results[-1], LedgerLostError)
        else:
            grants = [await reserve(holder, scene) for _ in range(20)]
            assert grants[-1].reservation is None
            await grants[-1].acknowledged()
            unleased = [grant for grant in grants if grant.reservation is None]
            unleased[0].settle(Usage(requests=1, prompt_tokens=20, answer_tokens=30))
            unleased[1].settle(None)
        line.cut = False
        await until(lambda: holder.up)
        await asyncio.sleep(0.1)
        # What was served without a lease is drawn once the ledger is back.
        running = sum(each.leased.tokens for each in holder.book._lease("team").running)
        spent = 1000 - (holder.book.balance("team", now_s()).remaining_tokens or 0)
        assert spent == 100 + running + (50 if mode == "open" else 0)
    said = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1
    assert "lost" in said[0]


@virtual
async def test_a_ledger_that_does_not_acknowledge_keeps_no_answer_back_for_long(
    scene: Scene,
) -> None:
    async with scene.holder() as (holder, line):
        line.hangs_on_reserved = True
        grant = await reserve(holder, scene)
        async with asyncio.timeout(4):
            await grant.acknowledged()
        assert not holder.up


@virtual
async def test_a_request_that_is_prepaid_waits_for_no_ledger(scene: Scene) -> None:
    async with scene.holder() as (holder, line):
        (await reserve(holder, scene)).settle(Usage(requests=1, answer_tokens=100))
        await asyncio.sleep(0.2)
        line.slow_s = 60.0
        await asyncio.sleep(0.05)
        async with asyncio.timeout(0.05):
            await (await reserve(holder, scene)).acknowledged()
        assert holder.up
        # Answered, and never reported: it is spent all the same.
        scene.ledger.forget(holder.book.replica)
    async with scene.holder() as (other, _):
        took = [await reserve(other, scene) for _ in range(8)]
        assert len(took) == 8
        with pytest.raises(QuotaExceededError):
            await reserve(other, scene)


@virtual
async def test_a_client_that_leaves_while_its_request_asks_takes_nothing_along(
    scene: Scene,
) -> None:
    async with scene.holder() as (holder, line):
        line.slow_s = 0.1
        asking = asyncio.create_task(reserve(holder, scene))
        await asyncio.sleep(0.02)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        line.slow_s = 0.0
        await asyncio.sleep(0.3)
        grants = [await reserve(holder, scene) for _ in range(10)]
        assert len(grants) == 10


@virtual
async def test_a_reservation_of_a_replica_that_was_taken_for_dead_is_not_answered(
    scene: Scene,
) -> None:
    async with scene.holder() as (holder, line):
        grant = await reserve(holder, scene)
        line.slow_s = 0.1
        scene.ledger.forget(holder.book.replica)
        with pytest.raises(RequestError, match="cut off"):
            await grant.acknowledged()


@virtual
async def test_reservations_of_a_burst_share_reports(scene: Scene) -> None:
    async with scene.holder() as (holder, line):
        line.slow_s = 0.02
        before = line.reports
        grants = await asyncio.gather(*(reserve(holder, scene) for _ in range(10)))
        await asyncio.gather(*(grant.acknowledged() for grant in grants))
        assert line.reports - before <= 5


@pytest.mark.parametrize("limits", [{"tokens_per_minute": 10**6}, {"tokens_per_day": 500_000}])
@virtual
async def test_requests_of_any_size_in_turn_are_prepaid_and_few_reports_are_made(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    scene = a_scene(tmp_path, requests_per_minute=6000, max_concurrent=20, **limits)
    config = AccessConfig(database="x")
    async with scene.holder(config) as (holder, line):
        line.slow_s = 0.005
        known: list[bool] = []
        for number in range(30):
            need = Amounts(requests=1, tokens=100 + number * 37 % 90, concurrent=1)
            grant = await holder.reserve(key_of(holder, scene), need)
            assert isinstance(grant, LeaseGrant)
            assert grant.reservation is not None
            known.append(holder.book.acknowledged(grant.reservation))
            await asyncio.sleep(0.03)
            grant.settle(Usage(requests=1, answer_tokens=50))
        assert known[5:] == [True] * 25
        assert line.reports < 30
    scene.database.close()
