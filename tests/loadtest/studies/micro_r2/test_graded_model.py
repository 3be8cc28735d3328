"""The committed micro-r2: made as its log says, and able to do what the policies need."""

import json
from typing import Any

import pytest

from loadtest.evaluation.datasets import load
from loadtest.studies.micro_r2.command import MODEL_DIR
from loadtest.studies.micro_r2.problems import HELD_OUT_OF_LEVEL, Level, held_out_problems


@pytest.fixture(scope="module")
def log() -> dict[str, Any]:
    return json.loads((MODEL_DIR / "training_log.json").read_text(encoding="utf-8"))


def test_the_held_out_problems_are_those_of_the_logged_seed(log: dict[str, Any]) -> None:
    lines = (MODEL_DIR / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    written = [json.loads(line) for line in lines]
    drawn = held_out_problems(log["seed"])
    assert [(w["problem"], w["answer"], w["steps"], w["level"]) for w in written] == [
        (p.text, str(p.result), p.steps, p.level) for p in drawn
    ]


def test_the_sets_of_the_levels_are_parts_of_the_whole() -> None:
    parts = [load(f"micro-r2-{level}").problems for level in Level]
    assert [len(part) for part in parts] == [HELD_OUT_OF_LEVEL] * 3
    assert sum(parts, ()) == load("micro-r2").problems


def test_reasoning_decides_the_hard_problems_and_no_easy_one(log: dict[str, Any]) -> None:
    easy, hard = log["levels"]["easy"], log["levels"]["hard"]
    assert easy["sampled"] >= 0.95
    assert easy["thinking_off"] >= 0.9
    assert 0.6 <= hard["sampled"] <= 0.9
    assert hard["thinking_off"] <= 0.2
