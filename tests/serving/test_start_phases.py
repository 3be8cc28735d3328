"""A replica's start in phases."""

import time

import pytest
from prometheus_client import CollectorRegistry

from serve_app.serving import start_phases
from serve_app.serving.start_phases import StartPhases
from serve_app.telemetry import make_tier_metrics


def make_phases(process_s: float, *times_s: float) -> tuple[StartPhases, CollectorRegistry]:
    registry = CollectorRegistry()
    readings_s = iter(times_s or (0.0,))
    gauge = make_tier_metrics(registry).startup_s
    return StartPhases(gauge, lambda: process_s, lambda: next(readings_s)), registry


def measured(registry: CollectorRegistry, phase: str) -> float | None:
    return registry.get_sample_value("tierserve_startup_seconds", {"phase": phase})


def test_the_start_begins_with_the_process_and_ends_when_ready() -> None:
    phases, registry = make_phases(3.0, 100.0, 137.0)
    phases.record("compile", 12.345)
    assert phases.total_s == 0.0
    phases.end()
    assert phases.report() == {"process": 3.0, "compile": 12.35, "total": 40.0}
    assert phases.total_s == 40.0
    assert [measured(registry, name) for name in phases.report()] == [3.0, 12.345, 40.0]


def test_a_phase_is_timed() -> None:
    phases, registry = make_phases(1.0)
    with phases.timed("load"):
        assert measured(registry, "load") is None
    assert list(phases.report()) == ["process", "load"]
    assert measured(registry, "load") is not None


def test_a_phase_that_fails_is_not_measured() -> None:
    phases, _ = make_phases(1.0)
    with pytest.raises(ValueError, match="no such model"), phases.timed("load"):
        raise ValueError("no such model")
    assert list(phases.report()) == ["process"]


def test_a_process_that_stood_by_is_no_part_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_phases, "_IMPORTED_S", time.monotonic())
    assert start_phases._process_s() > 0
    monkeypatch.setattr(
        start_phases, "_IMPORTED_S", time.monotonic() - start_phases.PRE_STARTED_S - 1
    )
    assert start_phases._process_s() == 0
