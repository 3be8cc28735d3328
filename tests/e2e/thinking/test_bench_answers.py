"""`tierserve bench answers` on a tier: each policy is asked, reported and counted."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.__main__ import parse
from loadtest.evaluation.answers import RESULTS, measure
from tests.e2e.site import Site

POLICIES = ("truncate", "direct", "lean:30", "early_exit", "pair", "vote:2")
PROBLEMS = 3


@pytest.mark.timeout(300)
async def test_policies_are_compared(site: Site, tmp_path: Path) -> None:
    words = ["answers", "--base-url", f"{site.url}/api/chat/v1", "--dataset", "micro"]
    words += ["--limit", str(PROBLEMS), "--out", str(tmp_path / "out"), "--policies", *POLICIES]
    assert await measure(parse(words), Console(quiet=True)) == 0
    rows = json.loads((tmp_path / "out" / RESULTS).read_text())["policies"]
    assert list(rows) == list(POLICIES)
    assert all(row["failed_requests"] == {} for row in rows.values())
    assert rows["direct"]["reasoning_tokens_mean"] == 0
    tokens = {name: row["completion_tokens_mean"] for name, row in rows.items()}
    # Two samples, or a direct answer beside, are more than one answer.
    assert tokens["vote:2"] > tokens["truncate"] > tokens["direct"] > 0
    assert rows["lean:30"]["reasoning_cut_share"] == 0
