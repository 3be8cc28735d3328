"""Secrets: made, hashed, verified, and shown nowhere."""

import re
import stat
import traceback
from pathlib import Path

import pytest

from serve_app.access.credentials import (
    PEPPER_VARIABLE,
    Credential,
    Pepper,
    Secret,
    load_pepper,
    make_credential,
    records_by_id,
    verify,
)
from serve_app.access.database import KeyStoreError, address_of
from serve_app.core.access.access_key import AccessKey, KeyRecord, KeySnapshot
from tests.access.builders import NOON_S, PEPPER

ADA = AccessKey("ada", expires_at_s=NOON_S + 1)


def snapshot_of(*made: Credential) -> dict[str, KeyRecord]:
    records = tuple(KeyRecord(each.key_id, each.secret_hash, ADA) for each in made)
    return records_by_id(KeySnapshot(1, records))


def test_what_is_made_is_verified_and_is_on_the_wire_as_documented() -> None:
    made = make_credential(PEPPER)
    presented = made.presented.reveal()
    assert re.fullmatch(r"ts-[a-z2-7]{8}-[A-Za-z0-9_-]{43}", presented)
    assert verify(presented.encode(), snapshot_of(made), PEPPER, NOON_S) is ADA


def test_nothing_else_is_verified() -> None:
    made, other = make_credential(PEPPER), make_credential(PEPPER)
    right = made.presented.reveal().encode()
    records = snapshot_of(made)
    wrong = [
        b"",
        b"ts-",
        b"ts--",
        right[:-1],
        right + b"x",
        right + b"\n",
        right[:-1] + (b"A" if right[-1:] != b"A" else b"B"),
        right.upper(),
        b"\xff" * len(right),
        b"x" * len(right),
        b"xx" + right[2:],
        right[:12] + other.presented.reveal().encode()[12:],
        other.presented.reveal().encode(),
        made.secret_hash,
        right * 1000,
    ]
    for presented in wrong:
        assert verify(presented, records, PEPPER, NOON_S) is None, presented[:80]


def test_a_key_ends_with_its_time_and_another_pepper_knows_none() -> None:
    made = make_credential(PEPPER)
    presented = made.presented.reveal().encode()
    assert verify(presented, snapshot_of(made), PEPPER, NOON_S + 1) is None
    assert verify(presented, snapshot_of(made), Pepper("q" * 44), NOON_S) is None


def test_secrets_show_in_no_repr_text_or_traceback() -> None:
    made = make_credential(PEPPER)
    try:
        raise ValueError(made, PEPPER, f"{made.presented} {PEPPER} {[made.presented]!r}")
    except ValueError:
        said = traceback.format_exc()
    assert made.presented.reveal() not in said
    assert "p" * 44 not in said
    assert repr(Secret("x")) == "Secret(...)"


def test_the_pepper_is_made_once_beside_the_database_for_its_owner_alone(tmp_path: Path) -> None:
    address = address_of(str(tmp_path / "keys.sqlite"))
    with pytest.raises(KeyStoreError, match=r"keys\.sqlite\.pepper is missing"):
        load_pepper(address)

    made = load_pepper(address, create=True)

    file = tmp_path / "keys.sqlite.pepper"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_pepper(address, create=True).reveal() == made.reveal()
    assert [each.name for each in tmp_path.iterdir()] == ["keys.sqlite.pepper"]


def test_a_pepper_that_everybody_reads_or_that_is_short_is_refused(tmp_path: Path) -> None:
    address = address_of(str(tmp_path / "keys.sqlite"))
    load_pepper(address, create=True)
    file = tmp_path / "keys.sqlite.pepper"
    file.chmod(0o644)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        load_pepper(address)
    file.chmod(0o600)
    file.write_text("short\n")
    with pytest.raises(KeyStoreError, match="openssl rand"):
        load_pepper(address)


def test_the_environment_has_the_pepper_of_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    address = address_of("postgresql://user:word@host/keys")
    with pytest.raises(KeyStoreError, match=PEPPER_VARIABLE):
        load_pepper(address, create=True)
    monkeypatch.setenv(PEPPER_VARIABLE, "e" * 44)
    assert load_pepper(address).reveal() == "e" * 44
