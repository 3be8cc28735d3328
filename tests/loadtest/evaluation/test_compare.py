"""`python -m loadtest compare`: two servers in turn, or two finished evaluations."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest.errors import UserError
from loadtest.evaluation import command, compare
from tests.loadtest.evaluation.fake_openai import FakeOpenAI, GraderHere, Reply, options_of, sums

QUIET = Console(quiet=True)
PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def _grade_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "Grader", GraderHere)
    monkeypatch.setattr(command, "Grader", GraderHere)


def knows_all(body: dict[str, Any], number: int) -> Reply:
    first = body["messages"][0]["content"].split()[0]
    return Reply(answer=rf"\boxed{{{int(first) + 3}}}")


async def test_two_models_in_turn_as_table_document_and_picture(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(body: dict[str, Any], number: int) -> Reply:
        asked.append(body["model"])
        return knows_all(body, number) if body["model"] == "clever" else Reply(end="cut")

    out = tmp_path / "both"
    async with FakeOpenAI(reply, models=("plain", "clever")) as fake:
        options = options_of(
            *("compare", "--a", f"{fake.url}#plain", "--b", f"{fake.url}#clever", "--runs", 2),
            *("--dataset", sums(tmp_path, 8), "--concurrency", 1, "--out", out),
        )
        assert await compare.compare(options, QUIET) == 0

    reported = json.loads((out / "compare.json").read_text())
    # Four requests a block: A B, B A, A B, B A.
    assert asked == (["plain"] * 4 + ["clever"] * 8 + ["plain"] * 4) * 2
    assert (reported["a"]["label"], reported["b"]["label"]) == ("plain", "clever")
    assert reported["accuracy_b_minus_a"]["value"] == 0.875
    assert reported["accuracy_b_minus_a"]["low"] > 0.5
    page = (out / "compare.md").read_text()
    assert "|  | plain | clever |" in page
    assert "| load time | 8.2 s | 8.2 s |" in page
    assert "| reasoning truncated | 100.0% | 0.0% |" in page
    assert "Accuracy, clever less plain: **+87.5 points" in page
    assert (out / "compare.png").read_bytes().startswith(PNG)


async def test_two_finished_evaluations(tmp_path: Path) -> None:
    async with FakeOpenAI(reports_of_itself=False) as plain, FakeOpenAI(knows_all) as clever:
        for name, fake in (("plain", plain), ("clever", clever)):
            options = options_of(
                *("eval", "--base-url", fake.url, "--dataset", sums(tmp_path), "--runs", 1),
                *("--out", tmp_path / name, "--temperature", 0.5 if fake is plain else 0.6),
            )
            await command.evaluate(options, QUIET)
        folders = (tmp_path / "plain", tmp_path / "clever")
        labels = ("--label-b", "clever")
        both = options_of("compare", "--from", *folders, *labels, "--out", tmp_path / "both")
        assert await compare.compare(both, QUIET) == 0

    page = (tmp_path / "both" / "compare.md").read_text()
    assert f"|  | fake at {plain.url} | clever |" in page
    assert "| load time | not reported | 8.2 s |" in page
    assert "| largest host memory seen | not reported | 2,861 MiB |" in page
    assert "| pass@1 | 25.0% | 100.0% |" in page
    assert "**Asked differently: temperature 0.5 against 0.6.**" in page


async def test_other_problems_and_unfinished_evaluations_are_refused(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        for name, count in (("four", 4), ("five", 5)):
            options = options_of(
                *("eval", "--base-url", fake.url, "--dataset", sums(tmp_path, count)),
                *("--runs", 1, "--out", tmp_path / name),
            )
            await command.evaluate(options, QUIET)
    folders = (tmp_path / "four", tmp_path / "five")
    with pytest.raises(UserError, match="asked different problems"):
        await compare.compare(options_of("compare", "--from", *folders), QUIET)
    (tmp_path / "five" / "summary.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        await compare.compare(options_of("compare", "--from", *folders), QUIET)


@pytest.mark.parametrize(
    "words", [[], ["--a", "http://x"], ["--from", "a", "b", "--a", "http://x"]]
)
async def test_two_sides_are_needed(words: list[str]) -> None:
    with pytest.raises(UserError, match="--from"):
        await compare.compare(options_of("compare", *words), QUIET)
