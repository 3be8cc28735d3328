"""What the command line refuses, and how."""

import contextlib
import io
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.errors import UserError
from loadtest.soak.command import faults_of
from loadtest.soak.plan import FAULTS


def printed(*words: str) -> tuple[int, str]:
    """Exit status and output."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = main(["soak", *words])
    return status, output.getvalue()


@pytest.mark.parametrize("hours", ["0.01", "-1", "nan", "inf"])
def test_too_few_hours_are_refused(hours: str) -> None:
    status, text = printed("--hours", hours)
    assert status == 2
    assert "--hours" in text
    assert "two minutes" in text


def test_an_unknown_fault_names_those_that_there_are() -> None:
    status, text = printed("--faults", "engine,earthquake")
    assert status == 2
    assert "earthquake" in text
    assert "slow-readers" in text


def test_a_fault_of_processes_needs_the_soaks_own_server() -> None:
    status, text = printed("--base-url", "http://127.0.0.1:1", "--faults", "burst,engine")
    assert status == 2
    assert "engine" in text
    assert "--base-url" in text
    assert "burst," not in text.split(":")[0]


def test_a_server_elsewhere_gets_what_clients_do() -> None:
    names = [fault.name for fault in faults_of("all", own_server=False)]
    assert names == ["disconnects", "burst", "slow-readers"]
    assert faults_of("all", own_server=True) == FAULTS
    assert faults_of("none", own_server=True) == ()
    with pytest.raises(UserError):
        faults_of(",", own_server=True)


def test_a_bad_slo_names_what_is_wrong() -> None:
    status, text = printed("--slo", "ttft=fast")
    assert status == 2
    assert "'fast' is no time" in text


def test_a_folder_without_a_soak_is_no_report(tmp_path: Path) -> None:
    status, text = printed("--report", str(tmp_path))
    assert status == 2
    assert "no soak's folder" in text


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    status, text = printed("--base-url", "http://127.0.0.1:1", "--out", str(tmp_path / "out"))
    assert status == 2
    assert "http://127.0.0.1:1/api/tiers" in text
