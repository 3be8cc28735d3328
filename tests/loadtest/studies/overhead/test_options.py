"""What the command line measures."""

from pathlib import Path

import pytest

from loadtest.__main__ import parse
from loadtest.report.results_file import RESULTS
from loadtest.studies.overhead.options import (
    model_name_of,
    model_of,
    plan_of,
    results_file_of,
    systems_of,
)
from loadtest.studies.overhead.plan import ClosedLoop
from serve_app.engine.models.model_dir import ModelNotFoundError


def test_all_systems_are_measured_unless_others_are_chosen() -> None:
    assert systems_of(parse(["overhead"])) == [
        "bare", "bare-beside-ours", "ours", "ours-v1", "ray-serve-llm", "serve-proxy-handle",
    ]  # fmt: skip
    assert systems_of(parse(["overhead", "--systems", "ours"])) == ["bare", "ours"]


def test_a_baseline_server_beside_ours_needs_ours_and_so_does_its_other_route() -> None:
    options = parse(["overhead", "--systems", "bare-beside-ours"])
    v1 = parse(["overhead", "--systems", "ours-v1"])

    assert systems_of(options) == ["bare", "bare-beside-ours", "ours"]
    assert systems_of(v1) == ["bare", "ours", "ours-v1"]


def test_the_command_line_chooses_the_plan() -> None:
    words = ["overhead", "--quick", "--rounds", "3", "--concurrency", "8", "16"]

    chosen = plan_of(parse(words))

    assert chosen.rounds == 3
    assert chosen.levels == (ClosedLoop(8, 16), ClosedLoop(16, 48))
    assert chosen.slots == 16


def test_rounds_are_shared_among_starts() -> None:

    chosen = plan_of(parse(["overhead", "--rounds", "7", "--starts", "3"]))
    usual = plan_of(parse(["overhead"]))
    quick = plan_of(parse(["overhead", "--quick"]))

    assert chosen.rounds_by_start() == [range(2), range(2, 4), range(4, 7)]
    assert usual.rounds_by_start() == [range(6), range(6, 12)]
    assert quick.rounds_by_start() == [range(2)]


def test_no_start_is_without_a_round() -> None:
    options = parse(["overhead", "--rounds", "2", "--starts", "5"])

    assert plan_of(options).rounds_by_start() == [range(1), range(1, 2)]


@pytest.mark.parametrize(
    ("words", "whole", "name"),
    [
        ([], True, "overhead.json"),
        ([], False, "overhead-quick.json"),
        (["--quick", "--model", "random"], True, "overhead-quick.json"),
        (["--model", "smollm2"], True, "overhead.json"),
        (["--model", "random"], True, "overhead-random.json"),
        (["--model", "random"], False, "overhead-quick.json"),
        (["--model", "/some/folder/Qwen2.5-0.5B"], True, "overhead-Qwen2.5-0.5B.json"),
    ],
)
def test_each_model_has_a_results_file(words: list[str], whole: bool, name: str) -> None:
    options = parse(["overhead", *words])

    assert results_file_of(options, whole=whole) == RESULTS / name


def test_a_chosen_results_file_is_taken() -> None:
    options = parse(["overhead", "--quick", "--out", "mine.json"])

    assert results_file_of(options, whole=True) == Path("mine.json")


def test_results_name_a_model_without_its_folder() -> None:
    options = parse(["overhead", "--model", "/some/folder/Qwen2.5-0.5B"])

    assert model_name_of(options) == "Qwen2.5-0.5B"


@pytest.mark.parametrize("name", ["some-org/some-model", "/no/such/folder"])
def test_a_model_that_is_not_here_is_refused(name: str) -> None:
    options = parse(["overhead", "--model", name])

    with pytest.raises(ModelNotFoundError, match="give"):
        model_of(options)


def test_a_file_is_no_directory_of_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    options = parse(["overhead", "--model", str(file)])

    with pytest.raises(ModelNotFoundError, match="give the directory"):
        model_of(options)


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "fast"])
def test_a_rate_that_is_none_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["overhead", f"--open-loop-rate={value}"])

    assert "--open-loop-rate" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rounds", "--starts", "--concurrency", "--output-tokens"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_count_that_is_none_is_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["overhead", option, value])

    assert option in capsys.readouterr().err
