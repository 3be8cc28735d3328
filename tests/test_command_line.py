"""`tierserve --help` and the options of its commands."""

from pathlib import Path

import pytest

from serve_app import __main__ as command_line


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
    asked = {"serve": {"port", "profile", "model", "log-requests"},
             "doctor": {"profile", "address", "port", "json"}}  # fmt: skip
    assert set(named) == asked[command]


@pytest.mark.parametrize("port", ["x", "0", "65536", "-1", "8000.5"])
def test_a_port_that_is_none_is_named(capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(["serve", f"--port={port}"])
    assert ended.value.code == 2
    assert f"{port} is no port" in capsys.readouterr().err


def test_bench_runs_the_simulator_of_the_checkout(capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["bench", "scaling", "--list"]) == 0
    assert "opposite-phase" in capfd.readouterr().out.split()


def test_bench_without_a_checkout_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "__file__", str(tmp_path / "serve_app" / "__main__.py"))
    assert command_line.main(["bench", "scaling"]) == 2
    assert "checkout" in capsys.readouterr().err
