"""Where keys and ledger lie: a SQLite file, or PostgreSQL by URL; tables, and errors that say what
to do.

SQLite runs in WAL mode: the service and `tierserve keys` work on the file at the same time. Each
commit is on the disk before it returns (`synchronous=FULL`), so that not even a machine that loses
its power forgets what was spent.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, SQLAlchemyError

DATABASE_VARIABLE = "TIERSERVE_KEYS"
SCHEMA_VERSION = 2
# How long a writer waits for another one, as `tierserve keys` for the ledger.
BUSY_S = 5.0
_READS = "tierserve_reads"
# PostgreSQL's lock under which one process makes the tables: any number that is ours.
_SCHEMA_LOCK = 0x7469657273

metadata = sa.MetaData()

service = sa.Table(
    "tierserve_service",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),  # of the keys
    # The process that owns what is leased, whose it is, and a number that rises while it lives.
    sa.Column("ledger", sa.String, nullable=False),
    sa.Column("ledger_service", sa.String, nullable=False, server_default=""),
    sa.Column("ledger_beats", sa.BigInteger, nullable=False, server_default="0"),
)

keys = sa.Table(
    "tierserve_keys",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("tiers", sa.String, nullable=False),
    sa.Column("weight", sa.Float, nullable=False),
    sa.Column("priority", sa.String, nullable=False),
    sa.Column("max_concurrent", sa.BigInteger),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("tokens_per_day", sa.BigInteger),
    sa.Column("admin", sa.Boolean, nullable=False),
    sa.Column("expires_at_s", sa.Double),
    sa.Column("created_at_s", sa.Double, nullable=False),
)

credentials = sa.Table(
    "tierserve_credentials",
    metadata,
    sa.Column("key_id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, index=True),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),
    sa.Column("expires_at_s", sa.Double),
    sa.Column("created_at_s", sa.Double, nullable=False),
)

quotas = sa.Table(
    "tierserve_quotas",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("max_concurrent", sa.BigInteger),
    sa.Column("requests_limit", sa.BigInteger),
    sa.Column("requests_level", sa.Double),
    sa.Column("requests_at_s", sa.Double),
    sa.Column("tokens_limit", sa.BigInteger),
    sa.Column("tokens_level", sa.Double),
    sa.Column("tokens_at_s", sa.Double),
    sa.Column("day_limit", sa.BigInteger),
    sa.Column("day", sa.String, nullable=False),
    sa.Column("day_tokens", sa.BigInteger, nullable=False),
)

replicas = sa.Table(
    "tierserve_replicas",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("seen_s", sa.Double, nullable=False),
    sa.Column("alive", sa.Boolean, nullable=False),
)

_COUNTERS = ("granted", "settled", "refunded", "returned", "reserved", "prepaid", "unleased")
# Since schema version 2.
_NEW_COUNTERS = ("prepaid", "unleased")
_AMOUNTS = ("requests", "tokens", "concurrent")

leases = sa.Table(
    "tierserve_leases",
    metadata,
    sa.Column("replica", sa.String, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    *(
        sa.Column(f"{counter}_{amount}", sa.BigInteger, nullable=False, server_default="0")
        for counter in _COUNTERS
        for amount in _AMOUNTS
    ),
    sa.Column("day", sa.String, nullable=False),
    sa.Column("day_refunded_tokens", sa.BigInteger, nullable=False),
)


def _usage_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("day", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("tier", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("answer_tokens", sa.BigInteger, nullable=False),
        sa.Column("gpu_s", sa.Double, nullable=False),
    )


usage = sa.Table("tierserve_usage", metadata, *_usage_columns())
# What each replica has reported, so that a report that comes twice counts once.
replica_usage = sa.Table(
    "tierserve_replica_usage",
    metadata,
    sa.Column("replica", sa.String, primary_key=True),
    *_usage_columns(),
)


class KeyStoreError(Exception):
    """Keys or ledger cannot be read or written; the message says what the operator can do."""


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """`path` is None for PostgreSQL."""

    url: URL
    path: Path | None

    def __str__(self) -> str:
        """Without a password."""
        if self.path is not None:
            return str(self.path)
        return self.url.set(drivername="postgresql").render_as_string(hide_password=True)


class Database:
    """Transactions on the tables of this module."""

    def __init__(self, address: DatabaseAddress, engine: Engine) -> None:
        self.address = address
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One that may write: SQLite's lock is taken at its beginning, so that it cannot fail
        half-way. Raises KeyStoreError with the way out."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _explained(self.address, error) from None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One that only reads, of one moment, and keeps no writer waiting."""
        try:
            with self._engine.connect() as connection:
                yield connection.execution_options(**{_READS: True})
        except SQLAlchemyError as error:
            raise _explained(self.address, error) from None

    def close(self) -> None:
        self._engine.dispose()


def default_database() -> str:
    """$TIERSERVE_KEYS, or else a file in the user's state folder."""
    if named := os.environ.get(DATABASE_VARIABLE):
        return named
    state = os.environ.get("XDG_STATE_HOME")
    folder = Path(state) if state else Path.home() / ".local" / "state"
    return str(folder / "tierserve" / "keys.sqlite")


def address_of(path_or_url: str) -> DatabaseAddress:
    """Raises KeyStoreError for what is neither a path nor a URL of SQLite or PostgreSQL."""
    if "://" not in path_or_url:
        path = Path(path_or_url).expanduser().absolute()
        return DatabaseAddress(URL.create("sqlite+pysqlite", database=str(path)), path)
    try:
        url = make_url(path_or_url)
    except (ArgumentError, ValueError):
        raise KeyStoreError(
            "The database's URL cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/NAME "
            "with special characters of the password percent-encoded."
        ) from None
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        if not url.database:
            raise KeyStoreError(
                "A SQLite URL needs a path: sqlite:////var/lib/tierserve/keys.sqlite"
            )
        return address_of(url.database)
    if backend not in ("postgresql", "postgres"):
        raise KeyStoreError(
            f"Keys lie in SQLite or PostgreSQL, and not in {backend}: give a path or "
            "postgresql://USER:PASSWORD@HOST:PORT/NAME."
        )
    return DatabaseAddress(url.set(drivername="postgresql+psycopg"), None)


def open_database(path_or_url: str, *, create: bool = False) -> Database:
    """Connect, and with `create` make what is missing: the file, its folder, the tables.

    Raises KeyStoreError where it cannot be opened, is not ours, or is from a newer version.
    """
    address = address_of(path_or_url)
    if address.path is not None:
        _prepare_file(address.path, create=create)
    database = Database(address, _engine(address))
    try:
        with database.transaction() as connection:
            _check_schema(address, connection, create=create)
    except BaseException:
        database.close()
        raise
    return database


def _prepare_file(path: Path, *, create: bool) -> None:
    try:
        if not create and not path.exists():
            raise KeyStoreError(
                f"There are no keys at {path} yet: `tierserve keys add NAME` makes the first one. "
                f"For another place give --database or {DATABASE_VARIABLE}."
            )
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Its companions, -wal and -shm, get the same mode from SQLite.
            path.touch(mode=0o600)
    except OSError as error:
        raise KeyStoreError(
            f"{path} cannot be opened: {error.strerror}. Give another place with --database or "
            f"{DATABASE_VARIABLE}, or run as the user whom it belongs to."
        ) from None


def _engine(address: DatabaseAddress) -> Engine:
    if address.path is None:
        try:
            return sa.create_engine(
                address.url, pool_size=2, hide_parameters=True, connect_args={"connect_timeout": 5}
            )
        except ModuleNotFoundError:
            raise KeyStoreError(
                "PostgreSQL needs the package psycopg: `pip install 'tierserve[postgres]'`."
            ) from None
    engine = sa.create_engine(address.url, hide_parameters=True, connect_args={"timeout": BUSY_S})
    event.listen(engine, "connect", _prepare_connection)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare_connection(connection: Any, _: object) -> None:
    connection.isolation_level = None  # SQLAlchemy begins and ends the transactions
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: Connection) -> None:
    only_reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")


def _check_schema(address: DatabaseAddress, connection: Connection, *, create: bool) -> None:
    if address.path is None:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
    if not sa.inspect(connection).has_table(service.name):
        if not create:
            raise KeyStoreError(
                f"There are no keys at {address} yet: `tierserve keys add NAME` makes the first."
            )
        metadata.create_all(connection)
        connection.execute(
            service.insert().values(id=1, schema_version=SCHEMA_VERSION, revision=1, ledger="")
        )
    version = connection.execute(sa.select(service.c.schema_version)).scalar_one()
    if version == 1:
        _upgrade_from_1(connection)
        version = SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        raise KeyStoreError(
            f"The keys at {address} have schema version {version}, and this tierserve knows "
            f"version {SCHEMA_VERSION}: use the version that wrote them, or a newer one."
        )


def _upgrade_from_1(connection: Connection) -> None:
    """In place, in the transaction that has looked. A service of version 1 that still runs on it
    ends: the ledger finds an owner that it does not know."""
    added = {
        service: ("ledger_service", "ledger_beats"),
        leases: tuple(f"{counter}_{amount}" for counter in _NEW_COUNTERS for amount in _AMOUNTS),
    }
    for table, names in added.items():
        for name in names:
            column = table.c[name]
            kind = column.type.compile(connection.dialect)
            default = "''" if isinstance(column.type, sa.String) else "0"
            connection.exec_driver_sql(
                f"ALTER TABLE {table.name} ADD COLUMN {name} {kind} NOT NULL DEFAULT {default}"
            )
    connection.execute(service.update().values(schema_version=SCHEMA_VERSION, ledger=""))


def _explained(address: DatabaseAddress, error: SQLAlchemyError) -> KeyStoreError:
    """Without parameters or the password: what the driver says, and what can be done."""
    said = " ".join(str(getattr(error, "orig", None) or error).split()).rstrip(".?")
    if address.path is None:
        advice = (
            "Is the server up, and are the user, the password and the name of the database right?"
        )
        if not isinstance(error, DatabaseError):
            advice = "See the server's log."
        return KeyStoreError(f"The database {address} failed: {said}. {advice}")
    if "locked" in said:
        advice = "Another process holds it; try again."
    elif "not a database" in said or "malformed" in said:
        advice = "It is another file, or damaged: restore it, or give another path."
    else:
        advice = "Is the disk full, and may this user write to the file and its folder?"
    return KeyStoreError(f"The database {address} failed: {said}. {advice}")
