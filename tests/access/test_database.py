"""Where keys lie, and what is said where they cannot be opened."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.access.database import (
    KeyStoreError,
    address_of,
    default_database,
    open_database,
)
from serve_app.access.key_store import KeyStore
from serve_app.access.ledger import Ledger
from serve_app.core.access.lease_book import LeaseBook
from tests.access.builders import PEPPER, key, need


def test_a_path_or_url_is_understood_and_shown_without_its_password() -> None:
    assert str(address_of("/a/keys.sqlite")) == "/a/keys.sqlite"
    assert str(address_of("sqlite:////a/keys.sqlite")) == "/a/keys.sqlite"
    assert address_of("~/k").path == Path.home() / "k"
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        shown = str(address_of(f"{scheme}://ada:word@db:5432/keys"))
        assert shown == "postgresql://ada:***@db:5432/keys"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("mysql://ada:hidden1@db/keys", "not in mysql"),
        ("sqlite://", "needs a path"),
        ("postgresql://ada:hidden1/x@db:x/keys", "percent-encoded"),
    ],
)
def test_what_is_neither_is_refused_without_its_password(given: str, says: str) -> None:
    with pytest.raises(KeyStoreError, match=says) as refused:
        address_of(given)
    assert "hidden1" not in str(refused.value)


def test_the_usual_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIERSERVE_KEYS", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_database() == str(Path.home() / ".local/state/tierserve/keys.sqlite")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_database() == "/state/tierserve/keys.sqlite"
    monkeypatch.setenv("TIERSERVE_KEYS", "postgresql://db/keys")
    assert default_database() == "postgresql://db/keys"


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "state" / "keys.sqlite"
    database = open_database(str(file), create=True)
    with database.transaction():
        modes = {stat.S_IMODE(each.stat().st_mode) for each in file.parent.iterdir()}
    database.close()
    assert modes == {0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_what_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "keys.sqlite"
    with pytest.raises(KeyStoreError, match="tierserve keys add NAME"):
        open_database(str(file))
    file.write_text("no database, as can be seen from its beginning")
    with pytest.raises(KeyStoreError, match="cannot be opened: File exists"):
        open_database(str(file / "keys.sqlite"), create=True)
    with pytest.raises(KeyStoreError, match="another file, or damaged"):
        open_database(str(file))
    with pytest.raises(KeyStoreError, match=r"cannot be opened|failed"):
        open_database(str(tmp_path), create=True)


def test_a_database_of_somebody_else_has_no_keys_yet(tmp_path: Path) -> None:
    file = tmp_path / "other.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(KeyStoreError, match="no keys at"):
        open_database(str(file))


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.sqlite"
    open_database(str(file), create=True).close()
    connection = sqlite3.connect(file)
    connection.execute("UPDATE tierserve_service SET schema_version = 3")
    connection.commit()
    connection.close()
    with pytest.raises(KeyStoreError, match="schema version 3"):
        open_database(str(file))


def test_a_server_that_does_not_answer_is_named_without_the_password() -> None:
    with pytest.raises(KeyStoreError, match=r"ada:\*\*\*@127") as refused:
        open_database("postgresql://ada:hidden1@127.0.0.1:1/keys", create=True)
    assert "Is the server up" in str(refused.value)
    assert "hidden1" not in str(refused.value)


def test_without_psycopg_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(KeyStoreError, match=r"tierserve\[postgres\]"):
        open_database("postgresql://ada@127.0.0.1:1/keys")


@pytest.mark.slow
def test_processes_that_start_at_once_make_one_database(database_url: str) -> None:
    program = (
        "import sys; from serve_app.access.database import open_database;"
        "open_database(sys.argv[1], create=True).close()"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", program, database_url],
            env={**os.environ},
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    assert [start.communicate(timeout=50)[1] for start in starts] == [b""] * 4
    assert [start.returncode for start in starts] == [0] * 4


def test_a_database_of_version_1_is_brought_up_to_date_and_keeps_its_keys(
    database_url: str,
) -> None:
    database = open_database(database_url, create=True)
    KeyStore(database, PEPPER).add(key("ada", tokens_per_day=1000))
    new: dict[str, tuple[str, ...]] = {"tierserve_service": ("ledger_service", "ledger_beats")}
    new["tierserve_leases"] = tuple(
        f"{counter}_{amount}"
        for counter in ("prepaid", "unleased")
        for amount in ("requests", "tokens", "concurrent")
    )
    with database.transaction() as connection:
        for table, columns in new.items():
            for column in columns:
                connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.exec_driver_sql("UPDATE tierserve_service SET schema_version = 1")
    database.close()

    database = open_database(database_url)
    service_of = Ledger(database)
    book = LeaseBook("r1")
    book.apply(service_of.report(book.report(0.0)), 0.0)
    ask = book.ask(key("ada", tokens_per_day=1000), need(1000))
    book.apply(service_of.report(book.report(1.0)), 1.0)
    assert ask.reservation is not None
    # A second look finds it done.
    open_database(database_url).close()
    database.close()
