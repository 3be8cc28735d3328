"""docs/compatibility.md: each report has a link of its own and a test that there is."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
TEXT = (TESTS.parent / "docs/compatibility.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)))
ROWS = re.findall(r"^\| (?!report |request |---).*\|$", TEXT, re.MULTILINE)


@cache
def _functions(file: str) -> frozenset[str]:
    nodes = ast.walk(ast.parse((TESTS / file).read_text()))
    return frozenset(
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: part)
def test_a_test_that_is_named_is_there(file: str, name: str) -> None:
    assert name in _functions(file)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[:40])
def test_a_row_says_which_test_shows_it(row: str) -> None:
    last = row.rstrip("| ").rpartition("|")[2]
    assert "::" in last or last.strip() == "the same"


def test_a_report_is_linked_once_and_under_its_number() -> None:
    links = re.findall(r"\[([^\]]*\d+)\]\(https://github\.com/([\w./-]+)\)", TEXT)
    assert len({link for _, link in links}) == len(links)
    for words, link in links:
        assert words.split()[-1] == link.rpartition("/")[2]
        assert ("PR " in words) is ("/pull/" in link)
