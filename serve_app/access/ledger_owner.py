"""Whose the ledger is: of two services with one database of keys the second is refused.

The owner raises a number in the database at least every second. Whoever wants the ledger and finds
another service's name looks whether that number still rises, by its own clock: clocks of two
machines need not agree. A ledger that Ray has started again is of the same service and takes over
at once; the ledger that it replaces, should it live, finds another owner and stops.
"""

import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serve_app.access.database import Database, KeyStoreError, service

# The owner raises its number at least so often.
BEAT_S = 1.0
# An owner whose number has not risen for so long is dead, or as good as dead: its next transaction
# finds that it is replaced.
DEAD_AFTER_S = 5.0
_LOOK_EVERY_S = 0.5


class LedgerError(KeyStoreError):
    """The database has failed; nothing of the call is in force, and the next one tries again."""


class LedgerSupersededError(LedgerError):
    """Another ledger has taken the database over: this one is to be stopped."""


class LedgerTakenError(LedgerError):
    """The database's ledger belongs to another service, which lives."""


def take_over(
    database: Database,
    owner: str,
    service_name: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make `owner`, a process of `service_name`, the ledger of the database. Waits where another
    service has it, for DEAD_AFTER_S at most. Raises LedgerTakenError where that one lives."""
    seen: tuple[str, int] | None = None
    waited_s = 0.0
    while True:
        with database.transaction() as connection:
            had_by, name, beats = _owner(connection)
            is_dead = seen == (had_by, beats) and waited_s >= DEAD_AFTER_S
            if not had_by or name == service_name or is_dead:
                connection.execute(
                    service.update().values(ledger=owner, ledger_service=service_name)
                )
                return
        if seen is not None and seen != (had_by, beats):
            raise LedgerTakenError(
                f"The keys at {database.address} belong to another service that is running: "
                f"{name or 'one of an older version'}. Stop that one, and this one takes over "
                "within seconds; or give this one a database of its own."
            )
        seen = had_by, beats
        sleep(_LOOK_EVERY_S)
        waited_s += _LOOK_EVERY_S


def check_owner(database: Database, connection: Connection, owner: str) -> None:
    """Raises LedgerSupersededError where `owner` is the ledger no more."""
    had_by, name, _ = _owner(connection)
    if had_by != owner:
        raise LedgerSupersededError(
            f"Another ledger has taken over {database.address}: {name or 'of an older version'}. "
            "Two services with one database of keys need databases of their own."
        )


def beat(connection: Connection) -> None:
    """Say that the owner lives."""
    connection.execute(service.update().values(ledger_beats=service.c.ledger_beats + 1))


def _owner(connection: Connection) -> tuple[str, str, int]:
    columns = (service.c.ledger, service.c.ledger_service, service.c.ledger_beats)
    had_by, name, beats = connection.execute(sa.select(*columns).with_for_update()).one()
    return had_by, name, beats
