"""`tierserve --help` and the options of its commands."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app import __main__ as command_line
from serve_app.local import launcher


@pytest.fixture(autouse=True)
def _signals_and_paths_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command sets handlers for signals and makes `loadtest` importable, in this process here."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        command_line.main([*words, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_says_what_it_is_and_shows_a_way_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    for part in ("two tiers, chat and reasoning", "serve --model micro-r1", "/v1", "doctor"):
        assert part in text


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_every_option_has_its_default(capsys: pytest.CaptureFixture[str], command: str) -> None:
    described = help_of(capsys, command).partition("options:")[2]
    options = described.split(" --")[1:]
    named = {option.split()[0]: option for option in options if "default" in option}
    asked = {"serve": {"port", "profile", "model", "host", "keys", "allow-anonymous",
                       "log-requests"},
             "doctor": {"profile", "address", "port", "json"}}  # fmt: skip
    assert set(named) == asked[command]


@pytest.mark.parametrize("port", ["x", "0", "65536", "-1", "8000.5"])
def test_a_port_that_is_none_is_named(capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(["serve", f"--port={port}"])
    assert ended.value.code == 2
    assert f"{port} is no port" in capsys.readouterr().err


def test_what_an_operator_can_fix_is_a_sentence_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line.main(["serve", "--profile", "no-such-profile"]) == 1
    said = capsys.readouterr().err
    assert "There is no profile 'no-such-profile'" in said
    assert "Traceback" not in said
    assert command_line.main(["--traceback", "serve", "--profile", "no-such-profile"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_raised_and_ctrl_c_has_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def ending(raised: BaseException) -> int:
        def serve(*_: object, **__: object) -> int:
            raise raised

        monkeypatch.setattr(launcher, "serve", serve)
        return command_line.main(["serve"])

    with pytest.raises(TypeError):
        ending(TypeError("a bug"))
    assert ending(KeyboardInterrupt()) == 130


@pytest.mark.parametrize("words", [(), ("serve",), ("doctor",), ("bench",)])
def test_help_fits_80_columns_and_has_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        command_line.main([*words, "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "examples:" in text


def test_every_bench_is_a_command_of_loadtest(capsys: pytest.CaptureFixture[str]) -> None:
    """Each name here leads to options of loadtest's, which are there."""
    described = help_of(capsys, "bench")
    for name in command_line.BENCHES:
        assert f" {name} " in described
        with pytest.raises(SystemExit) as ended:
            command_line.main(["bench", name, "--help"])
        assert ended.value.code == 0
        assert "usage:" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("tierserve 0.")


def test_bench_runs_the_simulator_of_the_checkout(capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["bench", "scaling", "--list"]) == 0
    assert "opposite-phase" in capfd.readouterr().out.split()


def test_bench_without_a_checkout_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "__file__", str(tmp_path / "serve_app" / "__main__.py"))
    assert command_line.main(["bench", "scaling"]) == 2
    assert "checkout" in capsys.readouterr().err
