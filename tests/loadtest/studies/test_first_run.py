"""The parts of `first-run` that need no server."""

from pathlib import Path

import pytest

from loadtest.errors import MeasurementError
from loadtest.report.results_file import REPOSITORY
from loadtest.studies.first_run import ask, curl_commands, sentences

RESULTS = {
    "meta": {
        "date": "2026-11-21T10:00:00+00:00",
        "commit": "abc",
        "machine": {"cores": 2, "cpu": "a CPU"},
    },
    "first_start_s": 200.0,
    "second_start_s": 70.0,
    "answers": [{"text": "Paris.", "chunks": 3, "e2e_s": 1.0}],
}


def test_the_readme_holds_one_streaming_command_for_each_tier() -> None:
    commands = curl_commands(REPOSITORY / "README.md")
    assert ["/api/chat" in command for command in commands] == [True, False]
    assert ["/api/reasoning" in command for command in commands] == [False, True]


def test_a_command_that_gets_no_streamed_answer_is_an_error(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    answer.write_text('data: {"choices":[{"delta":{"content":"cut"}}]}\n\n')
    with pytest.raises(MeasurementError, match="no streamed answer"):
        ask(f"cat {answer}", "http://127.0.0.1:1")


def test_a_streamed_answer_is_put_together(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    events = [
        '{"choices":[{"delta":{"content":"Pa"}}]}',
        '{"choices":[{"delta":{"content":"ris"}}]}',
    ]
    answer.write_text("".join(f"data: {event}\n\n" for event in events) + "data: [DONE]\n\n")
    assert ask(f"cat {answer}", "http://127.0.0.1:1")["text"] == "Paris"


def test_a_run_without_tests_claims_nothing_of_them() -> None:
    assert "make test" not in sentences(RESULTS)
    assert "12 min" in sentences({**RESULTS, "test_s": 720.0})
