"""`python -m loadtest budget-curve`: the results file, the picture and the page's table."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest.errors import UserError
from loadtest.evaluation import budget_curve
from loadtest.evaluation.budget_curve import measure
from tests.loadtest.evaluation.fake_openai import FakeOpenAI, GraderHere, Reply, options_of, sums

PAGE = "# Page\n<!-- budget-curve:begin -->\nold\n<!-- budget-curve:end -->\nmore\n"


@pytest.fixture(autouse=True)
def _grade_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_curve, "Grader", GraderHere)


def thinks_within(body: dict[str, Any], number: int) -> Reply:
    """Right with a budget of 8 or more; its thought has as many words as it may, 8 at most."""
    budget = body["thinking_token_budget"]
    end = "off" if budget == 0 else "cut" if budget < 8 else "complete"
    first = int(body["messages"][0]["content"].split()[0])
    return Reply(
        answer=rf"\boxed{{{first + 3 if budget >= 8 else 0}}}",
        thought="hm " * min(budget, 8),
        end=end,
    )


async def curve(fake: FakeOpenAI, folder: Path, page: str = PAGE, *more: str) -> int:
    (folder / "page.md").write_text(page)
    options = options_of(
        *("budget-curve", "--base-url", fake.url, "--dataset", sums(folder), "--no-directive"),
        *("--budgets", 8, 0, 4, "--answers", folder / "answers", "--out", folder / "curve.json"),
        *("--page", folder / "page.md", "--picture", folder / "curve.png"),
        *more,
    )
    return await measure(options, Console(quiet=True))


async def test_a_row_for_each_budget(tmp_path: Path) -> None:
    async with FakeOpenAI(thinks_within) as fake:
        assert await curve(fake, tmp_path) == 0

    results = json.loads((tmp_path / "curve.json").read_text())
    assert list(results) == ["0", "4", "8", "meta"]
    assert [results[b]["accuracy"]["value"] for b in ("0", "4", "8")] == [0.0, 0.0, 1.0]
    assert [results[b]["thought_cut_share"] for b in ("0", "4", "8")] == [0.0, 1.0, 0.0]
    assert [results[b]["reasoning_tokens_mean"] for b in ("0", "4", "8")] == [0.0, 4.0, 8.0]
    assert set(results["meta"]) == {
        *("date", "commit", "machine", "versions", "command", "settings")
    }
    page = (tmp_path / "page.md").read_text()
    assert "| 4 | 0.0% | 0.0% to 0.0% | 100.0% | 4.0 | 5.0 | 0.0% | 0 |" in page
    assert "](curve.png)" in page
    assert page.endswith("<!-- budget-curve:end -->\nmore\n")
    assert "old" not in page
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


async def test_an_empty_answer_fails_the_curve(tmp_path: Path) -> None:
    async with FakeOpenAI(lambda body, number: Reply(answer="", end="unfinished")) as fake:
        assert await curve(fake, tmp_path) == 1

    assert json.loads((tmp_path / "curve.json").read_text())["0"]["empty_answers"] == 4


async def test_a_page_without_a_place_is_reported_before_anything_is_asked(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        with pytest.raises(UserError, match="cannot take the table"):
            await curve(fake, tmp_path, page="# Page\n")

    assert fake.bodies == []


def cut_at_its_limit(body: dict[str, Any], number: int) -> Reply:
    """Thinks eight words, and answers if it has any token left."""
    left = body["max_tokens"] - 8
    first = int(body["messages"][0]["content"].split()[0])
    answer = rf"\boxed{{{first + 3}}}" if left > 0 else ""
    return Reply(answer=answer, thought="hm " * 8, finish_reason="stop" if left > 0 else "length")


async def test_a_plain_cut_gets_as_many_tokens_and_no_budget(tmp_path: Path) -> None:
    async with FakeOpenAI(thinks_within) as fake, FakeOpenAI(cut_at_its_limit) as plain:
        assert await curve(fake, tmp_path, PAGE, "--plain-cut-url", plain.url) == 0
        assert not any("thinking_token_budget" in body for body in plain.bodies)
        assert {body["max_tokens"] for body in plain.bodies} == {1, 5, 9}

    results = json.loads((tmp_path / "curve.json").read_text())
    cut = {budget: results[budget]["plain_cut"] for budget in ("0", "4", "8")}
    assert [row["max_tokens"] for row in cut.values()] == [1, 5, 9]
    assert [row["empty_answers"] for row in cut.values()] == [4, 4, 0]
    assert [row["accuracy"]["value"] for row in cut.values()] == [0.0, 0.0, 1.0]
    page = (tmp_path / "page.md").read_text()
    assert "| 0.0% | 0 | 5 | 0.0% | 4 |\n" in page
    assert "a server that only cuts" in page


async def test_a_plain_cut_needs_a_server_that_counts_tokens(tmp_path: Path) -> None:
    def uncounted(body: dict[str, Any], number: int) -> Reply:
        return Reply(answer="7", usage=False)

    async with FakeOpenAI(uncounted) as fake:
        with pytest.raises(UserError, match="counts no tokens"):
            await curve(fake, tmp_path, PAGE, "--plain-cut-url", fake.url)
