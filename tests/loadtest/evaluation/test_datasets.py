"""The copies hold what they should, and a file that is not as it should be says where."""

import gzip
import json
from pathlib import Path

import pytest

from loadtest.errors import UserError
from loadtest.evaluation.datasets import FOLDER, load


def test_the_published_sets_are_whole() -> None:
    gsm8k, math500 = load("gsm8k"), load("math500")

    assert len(gsm8k.problems) == 1319
    assert gsm8k.problems[0].answer == "18"
    assert len(math500.problems) == 500
    assert math500.problems[0].id == "test/precalculus/807.json"
    assert all((FOLDER / f"{name}_LICENSE").is_file() for name in ("gsm8k", "math500"))


def test_a_limit_takes_the_same_problems_of_a_shuffle() -> None:
    few = load("gsm8k", 20)

    assert few == load("gsm8k", 20)
    assert few.problems == load("gsm8k", 50).problems[:20]
    assert few.problems != load("gsm8k").problems[:20]
    assert few.fingerprint != load("gsm8k", 50).fingerprint


def test_a_file_may_word_its_fields_as_gsm8k_does(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl.gz"
    rows = [
        {"question": "six times seven?", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"},
        {"problem": "a half\u2028of one?", "answer": 0.5, "id": 7},
    ]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_bytes(gzip.compress(lines.encode()))

    dataset = load(str(file))

    assert dataset.name == "mine"
    assert [(p.id, p.answer) for p in dataset.problems] == [("1", "42"), ("7", "0.5")]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "line 2: Expecting property name"),
        ("[1]", "line 2: a JSON object is needed, not list"),
        ('{"answer": "4"}', r"line 2: `problem` \(or `question`\) must be a text"),
        ('{"problem": "2 + 2"}', "line 2: `answer` must be a text or a number"),
        ('{"problem": "2 + 2", "answer": true}', "line 2: `answer` must be a text or a number"),
        ('{"problem": "2 + 2", "answer": "so ####"}', "line 2: `answer` is empty"),
        ('{"problem": "2 + 2", "answer": 4, "id": "1"}', "line 2: the id '1' was used before"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, fault: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"problem": "1 + 1", "answer": "2"}\n' + line + "\n")

    with pytest.raises(UserError, match=fault):
        load(str(file))


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="known datasets: gsm8k, math500, micro"):
        load("gsm9k")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no problems"):
        load(str(tmp_path / "empty.jsonl"))
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        load(str(tmp_path / "bad.jsonl.gz"))
