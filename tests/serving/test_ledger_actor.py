"""The ledger's actor without Ray: two clusters of one service on one database, and two services."""

import asyncio
from pathlib import Path

import pytest

from serve_app.access.database import open_database
from serve_app.access.key_store import KeyStore
from serve_app.access.ledger_owner import LedgerError, LedgerTakenError
from serve_app.core.access.lease_book import LeaseBook
from serve_app.serving import ledger_actor
from serve_app.serving.ledger_actor import LedgerActor
from tests.access.builders import PEPPER, key, need

ADA = key("ada", tokens_per_day=1000)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(ledger_actor, "_lives", lambda _: True)
    opened = open_database(str(tmp_path / "keys.sqlite"), create=True)
    KeyStore(opened, PEPPER).add(ADA)
    opened.close()
    return str(tmp_path / "keys.sqlite")


class Cluster:
    """One cluster's ledger and a replica of it, whose time goes as the test says."""

    def __init__(self, database: str, name: str, service: str, *, is_shared: bool) -> None:
        self.actor = LedgerActor(database, service, is_shared=is_shared)
        self.book = LeaseBook(name)
        self.now_s = 0.0

    async def talk(self) -> None:
        self.now_s += 0.5
        self.book.apply(await self.actor.report(self.book.report(self.now_s)), self.now_s)

    async def request(self, tokens: int) -> bool:
        ask = self.book.ask(ADA, need(tokens))
        try:
            await self.talk()
        finally:
            if ask.pending:
                self.book.give_up(ask)
        return ask.reservation is not None


async def test_another_service_is_refused_while_the_first_one_runs(database: str) -> None:
    first = Cluster(database, "r1", "one", is_shared=False)
    await first.talk()
    second = Cluster(database, "r2", "two", is_shared=False)
    for _ in range(2):
        with pytest.raises(LedgerTakenError, match="one"):
            await second.actor.pepper()
    assert await first.request(10)


@pytest.mark.parametrize("is_shared", [False, True])
async def test_a_replica_that_ray_does_not_know_is_dead_unless_it_is_another_clusters(
    database: str, monkeypatch: pytest.MonkeyPatch, *, is_shared: bool
) -> None:
    monkeypatch.setattr(ledger_actor, "_lives", lambda replica: replica == "r2")
    monkeypatch.setattr("serve_app.access.ledger_owner.DEAD_AFTER_S", 0.0)
    old = Cluster(database, "r1", "one", is_shared=is_shared)
    await old.talk()
    assert await old.request(300)
    await old.talk()
    old.actor._looking.cancel()  # pyright: ignore[reportOptionalMemberAccess]

    new = Cluster(database, "r2", "one" if is_shared else "two", is_shared=is_shared)
    await new.talk()
    await asyncio.sleep(1.5)
    await new.talk()
    ledger = new.actor._ledger
    assert ledger is not None
    assert ("r1" in ledger.living_replicas()) == is_shared
    # What it had reserved is spent either way.
    assert not await new.request(701)


async def test_the_ledger_of_one_service_goes_to_the_cluster_that_has_requests(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Cluster(database, "r1", "svc", is_shared=True)
    await old.talk()
    assert await old.request(300)
    await old.talk()
    new = Cluster(database, "r2", "svc", is_shared=True)
    await new.actor.pepper()

    # Without anything to say the old one hears no more than the keys, and leaves the new one be.
    with pytest.raises(LedgerError, match="taken over"):
        await old.request(1)
    idle = Cluster(database, "r3", "svc", is_shared=True)
    idle.actor = old.actor
    await idle.talk()
    assert [record.key.name for record in idle.book.snapshot.records] == ["ada"]
    await new.talk()

    # Its own requests take it back, though not at once, and what either has spent counts for both.
    with pytest.raises(LedgerError, match="just had"):
        await old.request(1)
    monkeypatch.setattr(ledger_actor, "TAKE_BACK_S", 0.0)
    await old.talk()
    assert await old.request(300)
    await old.talk()
    with pytest.raises(LedgerError, match="taken over"):
        await new.request(301)
    assert not await new.request(401)
    assert await new.request(150)
