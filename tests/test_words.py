"""Identifiers say what the field says: docs/glossary.md has the words."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    "serve_app",
    "loadtest",
    "deploy",
    "tests/e2e",
    "tests/local",
    "tests/doctor",
    "tests/deploy",
)
# Private words for known ideas, each with the field's.
REFUSED = {
    "told": "reported",
    "tells": "reports",
    "wish": "demand, desired replicas",
    "wishes": "demands",
    "wished": "demanded",
    "card": "gpu",
    "cards": "gpus",
    "mended": "patched",
    "lack": "continuation reason",
    "lacks": "continuation reason",
    "roomy": "has_capacity",
    "dice": "rng",
    "visit": "request",
    "visits": "requests",
    "standby": "prestarted",
    "standbys": "prestarted",
    "landing": "placement",
    "landed": "placed",
    "exchange": "request context",
}
# Keys of settings, options and result files, which keep their names; what a library calls its own.
KEPT = {
    "cards": {
        "serve_app/config/engine.py",
        "serve_app/engine/fake/engine.py",
        "loadtest/simulation/answers.py",
        "loadtest/simulation/capacity.py",
        "loadtest/simulation/command.py",
        "loadtest/simulation/plan.py",
    },
    "told_to_wait": {"loadtest/evaluation/ask.py", "loadtest/evaluation/summary.py"},
    "exchange_limits": {"serve_app/serving/replica.py", "serve_app/serving/tier_limits.py"},
    "visit": {"deploy/monitoring/rules.py"},
}
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_identifier_has_a_private_word_for_a_known_idea(folder: str) -> None:
    found = {
        f"{path}: {name}": REFUSED[part]
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in identifiers(path)
        for part in map(str.lower, PART.findall(name))
        if part in REFUSED and str(path.relative_to(ROOT)) not in KEPT.get(name, ())
    }
    assert found == {}


def test_what_keeps_its_name_is_still_there() -> None:
    for name, files in KEPT.items():
        assert all(name in set(identifiers(ROOT / file)) for file in files), name


def identifiers(path: Path) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME:
            yield token.string
