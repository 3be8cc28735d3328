"""A record as somebody starts it: parts that fail, resume, and what it writes."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.__main__ import main
from loadtest.errors import MeasurementError
from loadtest.gpu_record import command, page, plan
from loadtest.gpu_record.command import write_table
from loadtest.gpu_record.parts import STARTS_FILE
from loadtest.gpu_record.plan import Part, Target
from loadtest.gpu_record.result import RECORD_FILE, read_record
from loadtest.report.results_file import META, REPOSITORY

STARTS = {
    "predicted": {"kv_tokens": 1000, "reason": "1 GiB of 1,000 bytes a token"},
    "starts": [
        {"phases_s": {"process": 1.0, "load": 20.0, "total": 22.0}, "kv_tokens": 900},
        {"phases_s": {"process": 1.0, "load": 5.0, "total": 6.5}, "kv_tokens": 900},
    ],
}
SUMMARY = {
    "problems": 20,
    "accuracy": {"pass_at_1": 0.95},
    "settings": {"dataset": "micro"},
}


def printed(*words: str) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = main(["card", *words])
    return status, output.getvalue()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Two parts without a service: the starts as if measured, and a command that ends at once."""
    shell: dict[str, list[str]] = {"words": ["no-such-command"]}

    def starts(_served: Any, folder: Path, _say: Any) -> None:
        shell["started"] = [*shell.get("started", []), "once"]
        measured_by = {"command": f"python -m loadtest start --out {folder}"}
        (folder / STARTS_FILE).write_text(json.dumps(STARTS | {"measured_on": measured_by}))

    def answers(target: Target) -> list[str]:
        answers_folder = target.folder / plan.ANSWERS_FOLDER
        answers_folder.mkdir(exist_ok=True)
        (answers_folder / "summary.json").write_text(json.dumps(SUMMARY))
        return shell["words"]

    made = (
        Part(plan.STARTS, "two starts", 10, 10),
        Part(plan.ANSWERS, "right answers", 20, 20, words=answers, result=plan.ANSWERS_FILE),
    )
    monkeypatch.setattr(plan, "PARTS", made)
    monkeypatch.setattr(command, "measure_starts", starts)
    return shell


def test_a_part_that_fails_is_written_down_and_run_again(
    tmp_path: Path, parts: dict[str, list[str]]
) -> None:
    status, text = printed("--quick", "--out", str(tmp_path))
    assert status == 1
    assert "invalid choice" in text
    record = read_record(tmp_path / RECORD_FILE)
    assert record["parts"]["starts"]["how"] == "done"
    assert record["parts"]["answers"]["how"] == "failed"
    assert record["answers"] is None
    assert record["starts"]["kv_off_by"] == -0.1
    assert "invalid choice" in (tmp_path / page.PAGE).read_text()

    parts["words"] = ["run", "--help"]
    status, text = printed("--quick", "--out", str(tmp_path))
    assert status == 0
    assert "1 of 2 parts" in text
    assert parts["started"] == ["once"]
    assert read_record(tmp_path / RECORD_FILE)["answers"]["accuracy"] == {"pass_at_1": 0.95}
    assert "95.0% of 20 (micro)" in (tmp_path / page.PAGE).read_text()


def test_a_part_is_measured_again_where_that_is_asked_for(
    tmp_path: Path, parts: dict[str, list[str]]
) -> None:
    printed("--quick", "--out", str(tmp_path), "--parts", "starts")
    status, _ = printed("--quick", "--out", str(tmp_path), "--parts", "starts", "--again", "starts")
    assert status == 0
    assert parts["started"] == ["once", "once"]


def test_what_would_end_too_late_is_left_for_the_next_time(
    tmp_path: Path, parts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Part(plan.STARTS, "two starts", 10, 3600)
    monkeypatch.setattr(plan, "PARTS", (slow,))
    status, text = printed("--quick", "--limit-minutes", "45", "--out", str(tmp_path))
    assert status == 1
    assert "no time left" in text
    assert read_record(tmp_path / RECORD_FILE)["parts"]["starts"]["how"] == "no time left"


def test_a_folder_of_another_kind_of_run_is_refused(
    tmp_path: Path, parts: dict[str, list[str]]
) -> None:
    printed("--quick", "--out", str(tmp_path), "--parts", "starts")
    status, text = printed("--out", str(tmp_path))
    assert status == 2
    assert "another quick" in text
    assert "--out" in text


def test_record_json_names_no_place(tmp_path: Path, parts: dict[str, list[str]]) -> None:
    """People send it: no folder, host or serial number of theirs may be in it."""
    parts["words"] = ["run", "--help"]
    printed("--quick", "--out", str(tmp_path))
    assert str(tmp_path) not in (tmp_path / RECORD_FILE).read_text()


def test_the_table_has_a_row_for_each_record_that_was_sent(
    tmp_path: Path, parts: dict[str, list[str]]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- cards:begin --><!-- cards:end -->")
    write_table(tmp_path)
    assert page.NOBODY in readme.read_text()

    run = tmp_path / "run"
    printed("--quick", "--out", str(run), "--parts", "starts")
    record = read_record(run / RECORD_FILE)
    record[META]["gpu"] = {"name": "Tesla T4", "driver": "555.42"}
    (tmp_path / "t4.json").write_text(json.dumps(record))
    write_table(tmp_path)
    row = readme.read_text().splitlines()[3]
    assert "| Tesla T4 | 555.42 | micro-r1 |" in row
    assert "22.0 s, 6.5 s" in row
    assert "900, -10.0%" in row


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("<!-- cards:begin --><!-- cards:end -->")
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(Exception, match=r"mine\.json"):
        write_table(tmp_path)


def test_the_table_in_the_docs_is_that_of_the_files_there() -> None:
    sent = REPOSITORY / "docs" / "cards"
    found = [read_record(path) for path in sorted(sent.glob("*.json"))]
    text = (sent / "README.md").read_text()
    begin, end = f"<!-- {page.SECTION}:begin -->", f"<!-- {page.SECTION}:end -->"
    assert text.partition(begin)[2].partition(end)[0].strip() == page.table(found)


def test_a_command_that_leaves_no_result_is_no_result(
    tmp_path: Path, parts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exit status that would be a finding of the command is that of an error too."""
    bare = Part(plan.ANSWERS, "right answers", 20, 20, words=lambda _: ["run", "--help"],
                result=plan.ANSWERS_FILE)  # fmt: skip
    monkeypatch.setattr(plan, "PARTS", (bare,))
    old = tmp_path / plan.ANSWERS_FILE
    old.parent.mkdir()
    old.write_text(json.dumps(SUMMARY))
    status, _ = printed("--quick", "--out", str(tmp_path))
    assert status == 1
    record = read_record(tmp_path / RECORD_FILE)
    assert (record["parts"]["answers"]["how"], record["answers"]) == ("failed", None)


def test_a_part_that_takes_too_long_is_given_time_to_end_its_servers(
    tmp_path: Path, parts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = tmp_path / "ended"
    script = (
        "import pathlib, signal, sys, time\n"
        f"end = lambda *_: sys.exit(pathlib.Path({str(ended)!r}).touch())\n"
        "signal.signal(signal.SIGTERM, end)\ntime.sleep(60)\n"
    )
    with (
        (tmp_path / "log").open("w") as output,
        pytest.raises(MeasurementError, match="stopped after 2 s; see log"),
    ):
        command._run([sys.executable, "-c", script], output, 2.0)
    assert ended.exists()


def test_a_result_is_not_lost_where_there_is_no_time_to_measure_it_again(
    tmp_path: Path, parts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed("--quick", "--out", str(tmp_path), "--parts", "starts")
    monkeypatch.setattr(plan, "PARTS", (Part(plan.STARTS, "two starts", 10, 3600),))
    printed("--quick", "--out", str(tmp_path), "--again", "starts")
    assert read_record(tmp_path / RECORD_FILE)["starts"] is not None
