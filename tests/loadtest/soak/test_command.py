"""What the command line refuses, and how."""

import argparse
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.load.faults import LoadFault
from loadtest.soak import command
from loadtest.soak.command import faults_of
from loadtest.soak.plan import FAULTS


def told(*words: str) -> tuple[int, str]:
    """Exit status and output."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command"))
    options = parser.parse_args(["soak", *words])
    console = Console(record=True, width=200)
    return command.run(options, ["soak", *words], console), console.export_text()


@pytest.mark.parametrize("hours", ["0.01", "-1", "nan", "inf"])
def test_too_few_hours_are_refused(hours: str) -> None:
    status, text = told("--hours", hours)
    assert status == 2
    assert "--hours" in text
    assert "two minutes" in text


def test_an_unknown_fault_names_those_that_there_are() -> None:
    status, text = told("--faults", "engine,earthquake")
    assert status == 2
    assert "earthquake" in text
    assert "slow-readers" in text


def test_a_fault_of_processes_needs_the_soaks_own_server() -> None:
    status, text = told("--base-url", "http://127.0.0.1:1", "--faults", "burst,engine")
    assert status == 2
    assert "engine" in text
    assert "--base-url" in text
    assert "burst," not in text.split(":")[0]


def test_a_server_elsewhere_gets_what_clients_do() -> None:
    names = [fault.name for fault in faults_of("all", own_server=False)]
    assert names == ["disconnects", "burst", "slow-readers"]
    assert faults_of("all", own_server=True) == FAULTS
    assert faults_of("none", own_server=True) == ()
    with pytest.raises(LoadFault):
        faults_of(",", own_server=True)


def test_a_bad_slo_names_what_is_wrong() -> None:
    status, text = told("--slo", "ttft=fast")
    assert status == 2
    assert "'fast' is no time" in text


def test_a_folder_without_a_soak_is_no_report(tmp_path: Path) -> None:
    status, text = told("--report", str(tmp_path))
    assert status == 2
    assert "no soak's folder" in text


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    status, text = told("--base-url", "http://127.0.0.1:1", "--out", str(tmp_path / "out"))
    assert status == 2
    assert "http://127.0.0.1:1/api/tiers" in text
