"""What the report's pictures show: scales, marks, and what has nothing to show."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.load import plots
from loadtest.report.formatting import counts


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, as they were then."""
    figures: list[Figure] = []
    save = plots.save

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        figures.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(plots, "save", keep)
    return figures


def titled(figure: Figure) -> dict[str, Axes]:
    return {axis.get_title(loc="left").partition(":")[0]: axis for axis in figure.axes}


def marks(axis: Axes) -> list[float]:
    low, high = axis.get_ylim()
    return [float(mark) for mark in axis.get_yticks() if low <= mark <= high]


def test_panels_that_are_compared_have_one_scale(tmp_path: Path, drawn: list[Figure]) -> None:
    panels = {
        "TTFT": {"chat": [0.01, 0.02]},
        "E2E": {"chat": [1.0, 9.0]},
        "TPOT": {"chat": [0.003]},
    }
    path = tmp_path / "p.png"
    assert plots.distributions(panels, path, one_scale=[("TTFT", "E2E"), ("TPOT", "ITL")])
    axes = titled(drawn[0])
    low, high = axes["TTFT"].get_xlim()
    assert axes["E2E"].get_xlim() == (low, high)
    assert low <= 10
    assert high >= 9000
    assert axes["TPOT"].get_xlim()[1] < 1000


def test_a_measure_without_values_has_no_panel(tmp_path: Path, drawn: list[Figure]) -> None:
    panels: dict[str, plots.Series] = {"TTFT": {"chat": [0.01]}, "TTFO": {"chat": [], "x": []}}
    assert plots.distributions(panels, tmp_path / "p.png")
    assert list(titled(drawn[0])) == ["TTFT"]
    assert not plots.distributions({"TTFO": {"chat": []}}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_of_two_slos_at_one_place_both_are_seen(tmp_path: Path, drawn: list[Figure]) -> None:
    panels = {"TTFT": {"chat": [0.01, 0.5], "reasoning": [0.01, 0.5]}}
    limits = {"TTFT": {"chat": 2.0, "reasoning": 2.0}}
    plots.distributions(panels, tmp_path / "p.png", limits_s=limits)
    chat, reasoning, *slos = drawn[0].axes[0].lines
    assert chat.get_linewidth() > reasoning.get_linewidth()
    assert len(slos) == 2
    assert plots._alternating(0, 2, length=4) == (0, (4, 4))
    assert plots._alternating(1, 2, length=4) == (4, (4, 4))
    assert plots._alternating(2, 3, length=2) == (4, (2, 4))


def a_timeline(**changed: Any) -> dict[str, Any]:
    tier = {"arrivals_per_s": [0.5, 1], "refusals_per_s": [0, 0.5], "errors_per_s": [0, 0],
            "in_flight": [0, 2], "tokens_per_s": [0, 9]}  # fmt: skip
    sample = {"queue_depth": 0, "running": 1, "slots": 2, "replicas_running": 1,
              "replicas_wanted": 1}  # fmt: skip
    server = [{"at_s": float(at), "tiers": {"chat": sample}} for at in range(2)]
    document = {"step_s": 2.0, "at_s": [0.0, 2.0], "lag_s": [0.0004, 0.0], "server": server}
    return {**document, "tiers": {"chat": tier | changed}}


def test_counts_have_whole_marks_only(tmp_path: Path, drawn: list[Figure]) -> None:
    assert plots.timeline(a_timeline(), tmp_path / "t.png") == []
    plots.server(a_timeline(), tmp_path / "s.png")
    for name, axis in {**titled(drawn[0]), **titled(drawn[1])}.items():
        assert name.startswith("lag") or all(m == int(m) for m in marks(axis)), (name, marks(axis))
    assert any(m != int(m) for m in marks(drawn[0].axes[-1]))


def test_a_run_without_refusals_has_a_sentence_and_no_panel(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    reported = a_timeline(refusals_per_s=[0, 0], tokens_per_s=[0, 0])
    remarks = plots.timeline(reported, tmp_path / "t.png")
    assert remarks == ["No output token came.", "No request was refused, and none failed."]
    assert [name[:8] for name in titled(drawn[0])] == ["arrivals", "requests", "lag of t"]


def test_a_queue_that_was_always_empty_differs_from_one_that_is_not_reported(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    reported = a_timeline()
    assert plots.server(reported, tmp_path / "s.png") == (
        True,
        ["Queue depth was 0 in every sample."],
    )
    assert [name[:8] for name in titled(drawn[0])] == ["running ", "replicas"]
    for sample in reported["server"]:
        sample["tiers"] = {"chat": {"queue_depth": 1, "running": None}}
    has_picture, remarks = plots.server(reported, tmp_path / "s.png")
    assert has_picture
    assert remarks == [
        "The number of running requests was not reported.",
        "The number of replicas was not reported.",
    ]
    assert plots.server(reported | {"server": []}, tmp_path / "x.png") == (False, [])


def test_nothing_counted_is_0_as_everywhere_else() -> None:
    assert counts({}) == "0"
    assert counts({"queue_full": 2, "503": 1}) == "queue_full: 2, 503: 1"
