"""The ledger: what is leased and spent of each key's quota, committed before it is answered.

One process owns it. It holds its state in memory and writes what has changed in the transaction
that a report causes; where that fails, the state is read again, so that nothing is in force that
is not on the disk. Whose it is, and when another process may take it over, is in ledger_owner.py.
"""

import time
import uuid
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serve_app.access.database import Database, KeyStoreError, service
from serve_app.access.key_store import read_snapshot
from serve_app.access.ledger_owner import (
    BEAT_S,
    LedgerError,
    beat,
    check_owner,
    take_over,
)
from serve_app.access.ledger_rows import read_state, write_changes
from serve_app.access.usage import UsageRow, read_usage
from serve_app.core.access.access_key import KeySnapshot
from serve_app.core.access.lease import LedgerAnswer, ReplicaReport
from serve_app.core.access.ledger_state import Changes, LedgerState

LEASE_TTL_S = 10.0
# Reports that change nothing read the keys' revision no more often.
POLL_S = 0.25


class Ledger:
    """Synchronous; for one thread."""

    def __init__(
        self,
        database: Database,
        now_s: Callable[[], float] = time.time,
        *,
        lease_ttl_s: float = LEASE_TTL_S,
        offline_leases: bool = False,
        service_name: str = "",
    ) -> None:
        """Takes the database over from a process of the same service, or of one that is dead, which
        takes seconds (`take_over`). `offline_leases`: replicas answer from what they have leased
        while no ledger can be reached (LedgerState). Raises LedgerError, LedgerTakenError."""
        self._database = database
        self._now_s = now_s
        self._lease_ttl_s = lease_ttl_s
        self._offline_leases = offline_leases
        self._owner = uuid.uuid4().hex
        self._state: LedgerState | None = None
        self._polled_s = self._beat_s = 0.0
        try:
            take_over(database, self._owner, service_name)
        except LedgerError:
            raise
        except KeyStoreError as error:
            raise LedgerError(str(error)) from None
        self._call(lambda _: None, is_write=True)

    def report(self, report: ReplicaReport) -> LedgerAnswer:
        """Book a report, grant what it asks for; on the disk when it returns. Raises LedgerError,
        LedgerSupersededError."""
        return self.report_all([report])[0]

    def report_all(self, reports: Sequence[ReplicaReport]) -> list[LedgerAnswer]:
        """Several in one transaction."""
        now_s = self._now_s()
        answers: list[LedgerAnswer] = []

        def book(state: LedgerState) -> None:
            answers.extend(state.report(report, now_s) for report in reports)

        self._call(book, is_write=any(report.keys or report.usage for report in reports))
        return answers

    def forget(self, replica: str) -> None:
        """Of a replica whose process has ended: what it had reserved is spent, the rest is free."""
        now_s = self._now_s()
        self._call(lambda state: state.forget(replica, now_s), is_write=True)

    def living_replicas(self) -> list[str]:
        """Those that nobody has seen die."""
        state = self._call(lambda _: None, is_write=False)
        return [name for name, replica in state.replicas.items() if replica.alive]

    def keep(self) -> None:
        """Say that this ledger lives, where no report does. To be called every second."""
        self._call(lambda _: None, is_write=False)

    def snapshot(self, known_revision: int = 0) -> KeySnapshot | None:
        """All valid keys; None where nothing has changed since `known_revision`."""
        state = self._call(lambda _: None, is_write=False)
        return None if state.snapshot.revision == known_revision else state.snapshot

    def usage(
        self, since_day: str | None = None, until_day: str | None = None, key: str | None = None
    ) -> list[UsageRow]:
        """Rows by day, key, tier and model; both days belong to it."""
        return read_usage(self._database, since_day=since_day, until_day=until_day, key=key)

    def _call(self, change: Callable[[LedgerState], None], *, is_write: bool) -> LedgerState:
        """Run `change` in a transaction, or without one where it can neither change what is stored
        nor meet new keys."""
        now_s = self._now_s()
        is_polling = not 0 <= now_s - self._polled_s < POLL_S
        if not (is_write or is_polling) and self._state is not None:
            change(self._state)
            if not self._state.changes:
                return self._state
            change = _nothing
        try:
            with self._database.transaction() as connection:
                state = self._current(connection, now_s)
                change(state)
                write_changes(connection, state)
                if not 0 <= now_s - self._beat_s < BEAT_S:
                    beat(connection)
                    self._beat_s = now_s
            state.changes = Changes()
        except LedgerError:
            self._state = None
            raise
        except KeyStoreError as error:
            self._state = None
            raise LedgerError(str(error)) from None
        except BaseException:
            self._state = None
            raise
        self._polled_s = now_s
        return state

    def _current(self, connection: Connection, now_s: float) -> LedgerState:
        """The state with the keys of now; it is read where there is none."""
        check_owner(self._database, connection, self._owner)
        revision = connection.execute(sa.select(service.c.revision)).scalar_one()
        state = self._state
        if state is None:
            state = LedgerState(lease_ttl_s=self._lease_ttl_s, offline_leases=self._offline_leases)
            read_state(connection, state)
        if state.snapshot.revision != revision:
            state.set_keys(read_snapshot(connection, now_s), now_s)
        self._state = state
        return state


def keys_only(database: Database, report: ReplicaReport) -> LedgerAnswer:
    """For a replica that has nothing to report, where another cluster's ledger is in force: the
    keys, and nothing acknowledged. Raises KeyStoreError."""
    with database.reading() as connection:
        snapshot = read_snapshot(connection, time.time())
    known = snapshot.revision == report.known_revision
    return LedgerAnswer(0, report.epoch, "", keys=None if known else snapshot)


def _nothing(_: LedgerState) -> None:
    """What there was to change is changed already."""
