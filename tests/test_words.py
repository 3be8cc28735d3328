"""Identifiers say what the field says: docs/glossary.md has the words."""

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    "serve_app",
    "loadtest",
    "deploy",
    "tests/autoscaling",
    "tests/clients",
    "tests/config",
    "tests/core/admission",
    "tests/core/placement",
    "tests/core/reasoning",
    "tests/core/scaling",
    "tests/core/structure",
    "tests/deploy",
    "tests/doctor",
    "tests/e2e",
    "tests/hostile",
    "tests/k8s",
    "tests/loadtest",
    "tests/local",
    "tests/monitoring",
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
        "tests/loadtest/simulation/test_commands.py",
        "tests/loadtest/studies/replay_scaling/test_cells.py",
    },
    "told_to_wait": {"loadtest/evaluation/ask.py", "loadtest/evaluation/summary.py"},
    "exchange_limits": {"serve_app/serving/replica.py", "serve_app/serving/tier_limits.py"},
    "visit": {"deploy/monitoring/rules.py"},
}
# Of these no comment and no docstring has one either; others are English words too.
REFUSED_IN_PROSE = ("card", "cards", "dice", "landed", "mended", "roomy", "wish", "wishes")
# A model's page on its hub; a command's name.
PROSE_KEPT = ("model card", "bench card", "loadtest card")
PROSE_WORD = re.compile(rf"\b({'|'.join(REFUSED_IN_PROSE)})\b", re.IGNORECASE)
STATEMENT_BEGINS = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_identifier_has_a_private_word_for_a_known_idea(folder: str) -> None:
    found = {
        f"{path}: {name}": REFUSED[part]
        for path in files_with(REFUSED, folder)
        for name in identifiers(path)
        for part in map(str.lower, PART.findall(name))
        if part in REFUSED and str(path.relative_to(ROOT)) not in KEPT.get(name, ())
    }
    assert found == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_comment_or_docstring_has_one_either(folder: str) -> None:
    found = {
        f"{path}: {text.strip()[:80]}": PROSE_WORD.findall(text)
        for path in files_with(REFUSED_IN_PROSE, folder)
        for text in prose(path)
        if PROSE_WORD.search(text)
    }
    assert found == {}


def test_what_keeps_its_name_is_still_there() -> None:
    for name, files in KEPT.items():
        assert all(name in set(identifiers(ROOT / file)) for file in files), name


def files_with(words: Iterable[str], folder: str) -> list[Path]:
    """Those in which one of the words stands anywhere: only these are worth their tokens."""
    anywhere = re.compile("|".join(words), re.IGNORECASE)
    files = sorted((ROOT / folder).rglob("*.py"))
    return [file for file in files if anywhere.search(file.read_text(encoding="utf-8"))]


def identifiers(path: Path) -> Iterator[str]:
    return (token.string for token in tokens(path) if token.type == tokenize.NAME)


def prose(path: Path) -> Iterator[str]:
    """Comments, and strings that stand alone as docstrings do, without what keeps its name."""
    before = tokenize.NEWLINE
    for token in tokens(path):
        docstring = token.type == tokenize.STRING and before in STATEMENT_BEGINS
        if token.type == tokenize.COMMENT or docstring:
            text = token.string
            for kept in PROSE_KEPT:
                text = text.replace(kept, "")
            yield text
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type


def tokens(path: Path) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
