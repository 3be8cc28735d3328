"""Keys in the database, SQLite and PostgreSQL."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.access.credentials import records_by_id, verify
from serve_app.access.database import KeyStoreError, open_database
from serve_app.access.key_store import KeyStore
from serve_app.core.access.access_key import AccessKey, KeyLimits, Priority
from serve_app.core.tiers import Tier
from tests.access.builders import PEPPER, Clock, key

WHOLE = AccessKey(
    name="ada@example.org",
    tiers=frozenset({Tier.CHAT}),
    weight=2.5,
    priority=Priority.BACKGROUND,
    limits=KeyLimits(4, 60, 20_000, 500_000),
    admin=True,
    expires_at_s=2e9,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[KeyStore]:
    database = open_database(database_url, create=True)
    yield KeyStore(database, PEPPER, clock)
    database.close()


@pytest.fixture
def accepts(store: KeyStore, clock: Clock) -> Callable[[str], AccessKey | None]:
    def verified(presented: str) -> AccessKey | None:
        records = records_by_id(store.snapshot())
        return verify(presented.encode(), records, PEPPER, clock())

    return verified


Accepts = Callable[[str], AccessKey | None]


def test_a_key_is_kept_as_it_was_given(store: KeyStore, accepts: Accepts) -> None:
    presented = store.add(WHOLE).reveal()
    assert accepts(presented) == WHOLE
    (stored,) = store.stored()
    assert stored.key == WHOLE
    assert stored.key_ids == (presented.split("-")[1],)


def test_each_change_raises_the_revision(store: KeyStore) -> None:
    revisions = [store.snapshot().revision]
    for change in (
        lambda: store.add(key()),
        lambda: store.change(replace(key(), weight=3.0)),
        lambda: store.rotate("ada"),
        lambda: store.revoke("ada"),
    ):
        change()
        revisions.append(store.snapshot().revision)
    assert revisions == list(range(revisions[0], revisions[0] + 5))


def test_a_revoked_key_is_none_and_its_name_is_free(store: KeyStore, accepts: Accepts) -> None:
    old = store.add(key()).reveal()
    store.revoke("ada")
    assert accepts(old) is None
    new = store.add(key()).reveal()
    assert accepts(old) is None
    assert accepts(new) == key()


def test_after_a_rotation_the_old_secret_has_its_grace(
    store: KeyStore, accepts: Accepts, clock: Clock
) -> None:
    first = store.add(key()).reveal()
    second = store.rotate("ada", grace_s=60.0).reveal()
    third = store.rotate("ada", grace_s=3600.0).reveal()
    assert all(accepts(each) for each in (first, second, third))

    clock.now_s += 60.0  # a later rotation does not lengthen an earlier one's grace
    assert accepts(first) is None
    assert accepts(second) is not None
    clock.now_s += 3540.0
    assert accepts(second) is None
    assert accepts(third) is not None

    last = store.rotate("ada").reveal()
    assert accepts(third) is None
    assert accepts(last) == key()


def test_what_no_key_may_have_is_refused_with_a_way_out(store: KeyStore) -> None:
    store.add(key())
    for wrong, says in (
        (key(), "rotate ada"),
        (key("a b"), "no name for a key"),
        (key(""), "no name for a key"),
        (key("x" * 65), "no name for a key"),
        (key("b\n"), "no name for a key"),
        (replace(key("b"), weight=0.0), "weight"),
        (replace(key("b"), weight=float("nan")), "weight"),
        (replace(key("b"), tiers=frozenset()), "needs a tier"),
        (key("b", tokens_per_day=0), "--tokens-per-day"),
        (key("b", max_concurrent=10**13), "--max-concurrent"),
    ):
        with pytest.raises(KeyStoreError, match=says):
            store.add(wrong)
    for change in (store.revoke, store.rotate, store.get):
        with pytest.raises(KeyStoreError, match="no key bob: `tierserve keys list`"):
            change("bob")
    assert [stored.key.name for stored in store.stored()] == ["ada"]


def test_two_processes_share_one_database(database_url: str, store: KeyStore) -> None:
    other = open_database(database_url, create=True)
    for number in range(20):
        KeyStore(other, PEPPER).add(key(f"a{number}"))
        store.add(key(f"b{number}"))
    other.close()
    assert len(store.stored()) == 40


def test_the_database_alone_has_no_secret(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "keys.sqlite"), create=True)
    secret = KeyStore(database, PEPPER).add(key()).reveal().split("-", 2)[2].encode()
    database.close()
    for file in tmp_path.iterdir():
        assert secret not in file.read_bytes(), file
