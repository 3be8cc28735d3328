"""How a snippet is run, without any client's package."""

import os
import time
from pathlib import Path

import pytest

from tests.clients import scripts
from tests.clients.environments import Environment

# Only its folder's name is used: bash is everywhere.
NO_PACKAGES = Environment("none")


def _run(script: str, expect: str = "") -> str:
    return scripts.run(NO_PACKAGES, "bash", script, expect)


def test_a_snippet_passes_that_prints_what_it_should() -> None:
    assert _run("echo the sum; echo is 57", "sum.*57") == ""


def test_a_snippet_fails_with_what_it_printed_instead() -> None:
    assert "'is 56" in _run("echo is 56", "57")


def test_a_snippet_fails_with_its_errors() -> None:
    assert _run("echo no such model >&2; exit 2") == "status 2: no such model"


def test_the_first_command_that_fails_fails_the_snippet() -> None:
    assert _run("false | cat; echo 57", "57") == "status 1: "


def test_a_snippet_has_a_home_of_its_own_and_no_keys_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of the user")
    assert _run(f'[ "$HOME" != "{os.environ["HOME"]}" ]; [ "$PWD" = "$HOME" ]') == ""
    assert _run('echo "key: ${OPENAI_API_KEY:-none}"', "key: none") == ""


def test_a_snippet_that_does_not_end_is_ended_with_all_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scripts, "SNIPPET_WITHIN_S", 1)
    began_s = time.monotonic()
    pid_file = tmp_path / "pid"
    assert _run(f"sleep 60 & echo $! > {pid_file}; wait") == "not done after 1 s"
    assert time.monotonic() - began_s < 20
    assert _ends(int(pid_file.read_text()))


def test_what_a_snippet_leaves_running_is_ended(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    assert _run(f"sleep 60 & echo $! > {pid_file}") == ""
    assert _ends(int(pid_file.read_text()))


def _ends(pid: int) -> bool:
    """Within five seconds; a process that nobody has waited for yet has ended, too."""
    state = Path(f"/proc/{pid}/stat")
    give_up_s = time.monotonic() + 5
    while time.monotonic() < give_up_s:
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False
