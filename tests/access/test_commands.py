"""`tierserve keys`: the key alone on standard output, the rest on standard error, and a way out."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.__main__ import main
from serve_app.access.credentials import load_pepper, records_by_id, verify
from serve_app.access.database import open_database
from serve_app.access.key_store import KeyStore
from serve_app.access.ledger import Ledger
from serve_app.core.access.lease import Usage, UsageLabels
from serve_app.core.access.lease_book import LeaseBook
from serve_app.core.tiers import Tier

Keys = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIERSERVE_KEYS", str(tmp_path / "state" / "keys.sqlite"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def keys(capsys: pytest.CaptureFixture[str]) -> Keys:
    """Runs a command: its status, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            status = main(["keys", *words])
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_the_key_is_alone_on_standard_output(keys: Keys, tmp_path: Path) -> None:
    status, out, err = keys("add", "ada", "--tokens-per-day", "500,000", "--expires", "90d")

    assert status == 0
    assert "ada added" in err
    assert "500,000 tokens/day" in err
    assert out.endswith("\n")
    presented = out.strip()
    database = open_database(str(tmp_path / "state" / "keys.sqlite"))
    records = records_by_id(KeyStore(database).snapshot())
    key = verify(presented.encode(), records, load_pepper(database.address), time.time())
    database.close()
    assert key is not None
    assert key.limits.tokens_per_day == 500_000
    assert key.expires_at_s == pytest.approx(time.time() + 90 * 86_400, abs=60)
    assert presented not in err


def test_every_option_reaches_the_key(keys: Keys) -> None:
    added = keys(
        *("add", "bot", "--json", "--tiers", "chat", "--weight", "2", "--max-concurrent", "4"),
        *("--requests-per-minute", "60", "--tokens-per-minute", "20000"),
        *("--tokens-per-day", "500000", "--priority", "background", "--admin"),
    )
    shown: dict[str, Any] = json.loads(added[1])
    assert shown.pop("key").startswith("ts-")
    assert shown == {
        "name": "bot",
        "tiers": ["chat"],
        "weight": 2.0,
        "priority": "background",
        "max_concurrent": 4,
        "requests_per_minute": 60,
        "tokens_per_minute": 20000,
        "tokens_per_day": 500000,
        "admin": True,
        "expires_at_s": None,
    }
    (listed,) = json.loads(keys("list", "--json")[1])
    assert listed.items() >= shown.items()
    assert "secret" not in str(listed)


def test_a_change_leaves_what_is_not_named(keys: Keys) -> None:
    keys("add", "bot", "--tokens-per-day", "500", "--max-concurrent", "4", "--admin")
    status, out, err = keys("change", "bot", "--max-concurrent", "none", "--weight", "3")
    assert (status, out) == (0, "")
    assert "500 tokens/day" in err
    (listed,) = json.loads(keys("list", "--json")[1])
    assert (listed["tokens_per_day"], listed["max_concurrent"]) == (500, None)
    assert (listed["weight"], listed["admin"]) == (3.0, True)
    keys("change", "bot", "--no-admin")
    assert not json.loads(keys("list", "--json")[1])[0]["admin"]


def test_rotate_prints_a_new_key_and_revoke_ends_it(keys: Keys) -> None:
    old = keys("add", "ada")[1]
    new = keys("rotate", "ada", "--grace", "1h")[1]
    assert new.startswith("ts-")
    assert new != old
    (listed,) = json.loads(keys("list", "--json")[1])
    assert len(listed["key_ids"]) == 2
    assert json.loads(keys("revoke", "ada", "--json")[1]) == {"name": "ada", "revoked": True}
    assert json.loads(keys("list", "--json")[1]) == []


def test_the_list_is_a_table_for_people(keys: Keys) -> None:
    keys("add", "ada", "--tokens-per-day", "500000", "--priority", "background", "--admin")
    shown = keys("list")[1]
    for part in ("ada", "500,000 tokens/day", "background", "admin"):
        assert part in " ".join(shown.split()), part


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("list",), "There are no keys at"),
        (("revoke", "ada"), "`tierserve keys add NAME`"),
        (("add", "a b"), "no name for a key"),
        (("list", "--database", "mysql://ada:hidden1@db/keys"), "SQLite or PostgreSQL"),
    ],
)
def test_what_fails_says_what_to_do(keys: Keys, words: tuple[str, ...], says: str) -> None:
    status, out, err = keys(*words)
    assert (status, out) == (1, "")
    assert says in err
    assert "Traceback" not in err
    assert "hidden1" not in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "ada", "--expires", "90"), "90d"),
        (("add", "ada", "--expires", "4000d"), "ten years"),
        (("add", "ada", "--tokens-per-day", "0"), "whole number"),
        (("add", "ada", "--tokens-per-day", "1e5"), "whole number"),
        (("add", "ada", "--tiers", "chat,fast"), "names no tiers"),
        (("add", "ada", "--priority", "high"), "interactive"),
        (("usage", "--since", "yesterday"), "2026-11-01"),
        (("usage", "--since", "2026-02-30"), "calendar"),
    ],
)
def test_bad_usage_has_its_own_status(keys: Keys, words: tuple[str, ...], says: str) -> None:
    status, _, err = keys(*words)
    assert status == 2
    assert says in err


def test_usage_is_shown_as_table_json_and_csv(keys: Keys, tmp_path: Path) -> None:
    keys("add", "ada")
    database = open_database(str(tmp_path / "state" / "keys.sqlite"))
    book = LeaseBook("r1")
    used = Usage(requests=1200, refused=3, prompt_tokens=10, answer_tokens=99, gpu_s=7200)
    book.count(UsageLabels("ada", Tier.CHAT, "=micro-r1", "2026-11-29"), used)
    ledger = Ledger(database)
    for _ in range(2):
        book.apply(ledger.report(book.report(time.time())), time.time())
    database.close()

    table = keys("usage", "--since", "2026-11-01")[1]
    assert "1,200" in table
    assert "2.00 h" in table
    (row,) = json.loads(keys("usage", "ada", "--since", "2026-11-29", "--json")[1])
    assert (row["requests"], row["refused"], row["gpu_s"]) == (1200, 3, 7200.0)
    assert keys("usage", "--since", "2026-11-29", "--csv")[1].splitlines() == [
        "day,key,tier,model,requests,refused,prompt_tokens,reasoning_tokens,answer_tokens,gpu_s",
        "2026-11-29,ada,chat,'=micro-r1,1200,3,10,0,99,7200.0",
    ]
    assert keys("usage", "--since", "2026-11-30", "--json")[1] == "[]\n"
    assert keys("usage", "bob", "--since", "2026-11-01", "--json")[1] == "[]\n"


def test_help_shows_how(keys: Keys) -> None:
    shown = keys("--help")[1]
    for part in ("--expires 90d", "--grace 1h", "live within two seconds", "exit status"):
        assert part in shown
    assert "postgresql://" in keys("add", "--help")[1]


def test_it_works_on_the_database_of_a_ledger_that_runs(keys: Keys, tmp_path: Path) -> None:
    keys("add", "ada", "--tokens-per-day", "1000")
    database = open_database(str(tmp_path / "state" / "keys.sqlite"))
    ledger = Ledger(database)
    book = LeaseBook("r1")
    book.apply(ledger.report(book.report(time.time())), time.time())

    # As a process of its own, as an operator would.
    command = [sys.executable, "-m", "serve_app", "keys", "add", "bob"]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    keys("revoke", "ada")
    time.sleep(0.3)  # longer than the ledger's POLL_S
    book.apply(ledger.report(book.report(time.time())), time.time())
    database.close()

    assert [record.key.name for record in book.snapshot.records] == ["bob"]
