"""The ledger as one detached Ray actor on the head node, and how a replica reaches it.

Whoever asks first starts it, and Ray restarts it for ever: what it knows is in its database before
it answers. Reports that come while one is written are written together with the next. A replica
that has been silent and that Ray no longer knows is dead, and its leases come back. Where another
service has the database, this one's replicas are refused with its name, until that one has ended.
"""

import asyncio
import hashlib
import logging
import logging.config
import math
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from serve_app.access.credentials import Pepper, load_pepper
from serve_app.access.database import KeyStoreError, open_database
from serve_app.access.ledger import Ledger, keys_only
from serve_app.access.ledger_owner import (
    BEAT_S,
    LedgerError,
    LedgerSupersededError,
    LedgerTakenError,
)
from serve_app.access.usage import read_usage
from serve_app.api.access import LedgerLostError
from serve_app.core.access.lease import LedgerAnswer, ReplicaReport
from serve_app.telemetry import logging_config

log = logging.getLogger(__name__)

NAMESPACE = "tierserve"
# Serve's own, in which its replicas are actors.
REPLICAS_NAMESPACE = "serve"
# A living replica reports twice a second. A death that is noticed within OFFLINE_AFTER_S of the
# last report gives back what lay idle there.
LOOK_EVERY_S = 0.25
SILENT_S = 0.75
# After another service was found to have the database.
TAKE_AGAIN_S = 5.0
# Of two clusters of one service that both have requests, each has the ledger for so long at least.
TAKE_BACK_S = 2.0
# After the ledger has gone to another cluster of its service, replicas count as alive for so long.
OTHERS_KEPT_S = 60.0
# A replica's name is its actor's, this, and what no other process of that name has.
PROCESS_SEPARATOR = "~"


class LedgerActor:
    """Plain class; `ledger_handle` makes an actor of it. One thread owns the ledger."""

    def __init__(self, database: str, service_name: str, *, is_shared: bool = False) -> None:
        """`service_name` is the same when Ray starts the actor again, and with `is_shared` in other
        clusters: the ledger then goes to the one that has something to report."""
        logging.config.dictConfig(logging_config(part="ledger"))
        self._owner = ThreadPoolExecutor(1, "ledger")
        self._reader = ThreadPoolExecutor(1, "usage")
        self._database = open_database(database, create=True)
        self._pepper = load_pepper(self._database.address, create=True)
        self._service_name = service_name
        self._ledger: Ledger | None = None
        self._taken: LedgerTakenError | None = None
        self._taking = asyncio.Lock()
        self._took_s = -math.inf
        self._is_shared = is_shared
        self._superseded_s: float | None = None
        self._waiting: list[tuple[ReplicaReport, asyncio.Future[LedgerAnswer]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._heard_s: dict[str, float] = {}
        self._looking: asyncio.Task[None] | None = None
        self._kept_s = -math.inf

    async def pepper(self) -> str:
        """For replicas on other nodes, which have no file of it. Raises LedgerError."""
        await self._own()
        return self._pepper.reveal()

    async def report(self, report: ReplicaReport) -> LedgerAnswer:
        """Committed before it is answered. Raises LedgerError."""
        if self._ledger is None and self._superseded_s is not None:
            if not (report.keys or report.usage):
                answer = partial(keys_only, self._database, report)
                return await self._in_thread(self._reader, answer)
            if time.monotonic() - self._superseded_s < TAKE_BACK_S:
                raise LedgerError("Another cluster of this service has just had the ledger.")
        await self._own()
        self._heard_s[report.replica] = time.monotonic()
        answered = asyncio.get_running_loop().create_future()
        self._waiting.append((report, answered))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await answered

    async def usage(
        self, since_day: str | None = None, until_day: str | None = None, key: str | None = None
    ) -> list[Any]:
        """Rows of what was served. In a thread of its own: it holds up no report."""
        read = partial(read_usage, since_day=since_day, until_day=until_day, key=key)
        return await self._in_thread(self._reader, read, self._database)

    async def _own(self) -> Ledger:
        """The ledger; taken over first where it is not this actor's. Raises LedgerError."""
        if self._ledger is not None:
            return self._ledger
        async with self._taking:
            if self._ledger is not None:
                return self._ledger
            if self._taken is not None and time.monotonic() - self._took_s < TAKE_AGAIN_S:
                raise self._taken
            make = partial(
                Ledger, self._database, offline_leases=True, service_name=self._service_name
            )
            try:
                ledger: Ledger = await self._in_thread(self._owner, make)
            except LedgerTakenError as taken:
                if self._taken is None:
                    log.critical("another service has the keys", extra={"error": str(taken)})
                self._taken, self._took_s = taken, time.monotonic()
                raise
            self._ledger = ledger
        self._taken = self._superseded_s = None
        # Those that died together with the former process are looked for as well; of those of
        # another cluster of this service Ray knows nothing here.
        heard_s = time.monotonic() + (OTHERS_KEPT_S if self._is_shared else 0.0)
        for replica in await self._in_thread(self._owner, ledger.living_replicas):
            self._heard_s.setdefault(replica, heard_s)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_the_dead())
        log.info("the ledger is open", extra={"database": str(self._database.address)})
        return ledger

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._answer(batch)
        finally:
            self._writing = None

    async def _answer(
        self, batch: list[tuple[ReplicaReport, asyncio.Future[LedgerAnswer]]]
    ) -> None:
        reports = [report for report, _ in batch]
        try:
            ledger = await self._own()
            answers = await self._in_thread(self._owner, ledger.report_all, reports)
        # Each of them hears it, and reports all of it again.
        except Exception as error:  # noqa: BLE001
            self._failed(error, "reports could not be written")
            for _, answered in batch:
                if not answered.done():
                    answered.set_exception(error)
            return
        for (_, answered), answer in zip(batch, answers, strict=True):
            if not answered.done():
                answered.set_result(answer)

    def _failed(self, error: Exception, what: str) -> None:
        if isinstance(error, LedgerSupersededError):
            level = logging.INFO if self._is_shared else logging.CRITICAL
            log.log(level, "another ledger has taken the keys over", extra={"error": str(error)})
            self._ledger = None
            self._superseded_s = time.monotonic() if self._is_shared else None
        elif not isinstance(error, LedgerTakenError):
            log.error(what, extra={"error": str(error)})

    async def _look_for_the_dead(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._ledger is None:
                continue
            try:
                if time.monotonic() - self._kept_s >= BEAT_S:
                    self._kept_s = time.monotonic()
                    await self._in_thread(self._owner, self._ledger.keep)
            except KeyStoreError as error:
                self._failed(error, "the database does not answer")
                continue
            silent_since_s = time.monotonic() - SILENT_S
            for replica, heard_s in list(self._heard_s.items()):
                if heard_s > silent_since_s or await asyncio.to_thread(_lives, replica):
                    continue
                del self._heard_s[replica]
                log.warning("a replica is dead: its leases come back", extra={"replica": replica})
                try:
                    await self._in_thread(self._owner, self._ledger.forget, replica)
                except KeyStoreError as error:
                    # Silent for long enough, it is dead for the ledger too.
                    self._failed(error, "a dead replica stays in the books")
                    break

    async def _in_thread(self, threads: ThreadPoolExecutor, call: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, call, *args)


def _lives(replica: str) -> bool:
    """Whether Ray has an actor of that name. One that cannot be asked for is taken to live."""
    name, _, _ = replica.rpartition(PROCESS_SEPARATOR)
    try:
        ray.get_actor(name, namespace=REPLICAS_NAMESPACE)
    except ValueError:
        return False
    except RayError:
        return True
    return True


def ledger_handle(database: str, service: str | None) -> Any:
    """The actor of that database, started where there is none, for the `service` of this name in
    several clusters, or for this cluster alone. A call to the head, or several."""
    digest = hashlib.sha256(database.encode()).hexdigest()[:12]
    actor = ray.remote(LedgerActor).options(
        name=f"ledger-{digest}",
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=0,
        # The database is a path on the head's volume.
        resources={"node:__internal_head__": 0.001},
    )
    return actor.remote(database, service or _own_name(), is_shared=service is not None)


def _own_name() -> str:
    """Of one service from its start to its end, for people too."""
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{uuid.uuid4().hex[:8]} on {socket.gethostname()}, since {since}"


@dataclass(slots=True)
class LedgerLink:
    """How a replica reaches the ledger. Raises LedgerLostError where it does not."""

    database: str = field(repr=False)
    service: str | None = None
    _actor: Any = None

    async def pepper(self) -> Pepper:
        return Pepper(await self._call("pepper"))

    async def report(self, report: ReplicaReport) -> LedgerAnswer:
        return await self._call("report", report)

    async def usage(self, *args: str | None) -> list[Any]:
        """As LedgerActor.usage."""
        return await self._call("usage", *args)

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(ledger_handle, self.database, self.service)
            return await getattr(self._actor, method).remote(*args)
        except RayTaskError as error:
            # The actor has answered, with an error of its own.
            is_taken = isinstance(error.cause, LedgerTakenError)
            raise LedgerLostError(str(error.cause)[:500], is_taken=is_taken) from error
        # Ray knows no end of the ways in which a call fails; none of them is the caller's fault.
        except (RayError, ValueError, RuntimeError, OSError) as error:
            self._actor = None
            raise LedgerLostError(f"{type(error).__name__}: {str(error)[:200]}") from error
