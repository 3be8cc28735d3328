"""Bursts on two replicas while replicas are killed, the ledger is restarted and reports get lost:
never is more spent, nor more at a time, than the key allows; in the end nearly all of it is."""

import asyncio
import pickle
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve_app.access.database import Database, open_database
from serve_app.access.key_store import KeyStore
from serve_app.access.ledger import Ledger
from serve_app.api.access import LedgerLostError, QuotaExceededError
from serve_app.config.access import AccessConfig
from serve_app.core.access.lease import Amounts, LedgerAnswer, ReplicaReport
from serve_app.core.access.lease_book import LeaseBook
from serve_app.errors import RequestError
from serve_app.serving.lease_holder import LeaseGrant, LeaseHolder
from tests.access.builders import PEPPER, key

BUDGET, AT_A_TIME, CLIENTS = 30_000, 12, 64
ADA = key("ada", tokens_per_day=BUDGET, max_concurrent=AT_A_TIME)


class Cluster:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.thread = ThreadPoolExecutor(1)
        self.ledger = Ledger(database, offline_leases=True)
        self.rng = random.Random(3)
        self.spent = self.running = self.most_running = self.born = 0

    async def report(self, report: ReplicaReport) -> LedgerAnswer:
        luck = self.rng.random()
        if luck < 0.03:
            raise LedgerLostError("the report was lost")
        copy = pickle.loads(pickle.dumps(report))
        answer = await self.in_thread(lambda: self.ledger.report(copy))
        if luck > 0.97:
            raise LedgerLostError("the answer was lost")
        return answer

    async def in_thread(self, call):
        return await asyncio.get_running_loop().run_in_executor(self.thread, call)

    async def restart_ledger(self) -> None:
        self.ledger = await self.in_thread(lambda: Ledger(self.database, offline_leases=True))


class Replica:
    def __init__(self, cluster: Cluster) -> None:
        cluster.born += 1
        self.cluster, self.name = cluster, f"r{cluster.born}"
        config = AccessConfig(database="keys", on_ledger_loss="refuse")
        self.holder = LeaseHolder(LeaseBook(self.name), cluster.report, PEPPER, config)
        self.tasks = {asyncio.create_task(self.holder.run())}

    def burst(self) -> None:
        self.tasks |= {asyncio.create_task(self.request()) for _ in range(CLIENTS // 2)}

    async def request(self) -> None:
        cluster = self.cluster
        try:
            grant = await self.holder.reserve(ADA, Amounts(1, cluster.rng.choice((100, 400)), 1))
            await grant.acknowledged()
        except (QuotaExceededError, LedgerLostError, RequestError):
            return
        assert isinstance(grant, LeaseGrant)
        assert grant.reservation is not None
        tokens = grant.reservation.leased.tokens // cluster.rng.choice((1, 3))
        cluster.running += 1
        cluster.most_running = max(cluster.most_running, cluster.running)
        cluster.spent += tokens  # a killed request has spent too
        try:
            await asyncio.sleep(cluster.rng.uniform(0.005, 0.1))
        finally:
            cluster.running -= 1
        self.holder.settle(ADA, grant.reservation, Amounts(1, tokens))

    async def kill(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.slow
async def test_no_kill_overspends(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "keys"), create=True)
    KeyStore(database, PEPPER).add(ADA)
    cluster = Cluster(database)
    replicas = [Replica(cluster), Replica(cluster)]
    ends_s = time.monotonic() + 30.0
    round_ = unchanged = 0
    while unchanged < 5 and time.monotonic() < ends_s:
        before, round_ = cluster.spent, round_ + 1
        for replica in replicas:
            assert await replica.holder.until_loaded(20.0)
            replica.burst()
        await asyncio.sleep(cluster.rng.uniform(0.1, 0.4))
        if round_ % 4 == 0:
            dead = replicas.pop(0)
            await dead.kill()
            await cluster.in_thread(lambda name=dead.name: cluster.ledger.forget(name))
            replicas.append(Replica(cluster))
        if round_ % 3 == 0:
            await cluster.restart_ledger()
        unchanged = unchanged + 1 if cluster.spent == before else 0
    for replica in replicas:
        await replica.kill()
    cluster.thread.shutdown()
    database.close()

    assert cluster.most_running <= AT_A_TIME
    assert 0.5 * BUDGET < cluster.spent <= BUDGET
