"""How many replicas a tier needs, from what its replicas report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.scaling import ReplicaLoad
from tests.builders import a_decision, a_report

REPORTS = st.builds(
    a_report,
    running=st.integers(0, 40),
    queue_depth=st.integers(0, 200),
    slots=st.just(20),
)
SOME_REPORTS = st.lists(REPORTS, min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("running", "queue_depth", "replicas"),
    [(0, 0, 1), (9, 0, 1), (10, 8, 2), (10, 9, 3), (10, 80, 10)],
)
def test_what_runs_and_waits_over_the_slots_with_headroom(
    running: float, queue_depth: float, replicas: int
) -> None:
    assert a_decision([a_report(running, queue_depth, slots=10)]).replicas == replicas


def test_the_reason_gives_the_numbers() -> None:
    reason = a_decision([a_report(8, 24, slots=10)]).reason
    assert "running 8 + queue depth 24 over 10 slots" in reason


def test_nobody_waits_means_no_new_replica() -> None:
    assert a_decision([a_report(running=10, slots=10)]).replicas == 1


def test_an_idle_tier_falls_to_one_and_not_below() -> None:
    assert a_decision([a_report()] * 4).replicas == 1


def test_without_any_report_the_count_stays() -> None:
    assert a_decision([], target=3, running=3).replicas == 3


def test_a_stale_report_is_none() -> None:
    assert a_decision([a_report(age_s=5.1)] * 3).replicas == 3
    assert a_decision([a_report(age_s=4.9)] * 3).replicas == 1


def test_a_report_without_slots_is_none() -> None:
    assert a_decision([a_report(slots=0)] * 3).replicas == 3


@given(SOME_REPORTS, st.integers(1, 6), st.booleans())
def test_while_a_running_replica_does_not_report_the_count_never_falls(
    reports: list[ReplicaLoad], missing: int, stale: bool
) -> None:
    silent = [a_report(age_s=60.0)] * missing if stale else []
    total = len(reports) + missing
    assert a_decision(reports + silent, target=total, running=total).replicas >= total


def test_missing_reports_do_not_keep_it_from_rising() -> None:
    assert a_decision([a_report(10, 50)], target=2, running=2).replicas == 7


def test_a_replica_that_starts_is_capacity_to_come() -> None:
    # Two are wanted and one of them starts: the line that made them two asks for no third.
    assert a_decision([a_report(10, 8, slots=10)], target=2, running=1).replicas == 2


@given(SOME_REPORTS, st.integers(0, 100), st.integers(0, 100), st.integers(1, 12))
def test_more_work_never_means_fewer_replicas(
    reports: list[ReplicaLoad], more_running: int, more_queued: int, target: int
) -> None:
    first = reports[0]
    busier = a_report(first.running + more_running, first.queue_depth + more_queued, first.slots)
    before = a_decision(reports, target=target).replicas
    assert a_decision([busier, *reports[1:]], target=target).replicas >= before


@given(SOME_REPORTS)
def test_the_same_work_on_the_wanted_replicas_changes_nothing(reports: list[ReplicaLoad]) -> None:
    wanted = a_decision(reports).replicas
    share = [
        a_report(
            sum(report.running for report in reports) / wanted,
            sum(report.queue_depth for report in reports) / wanted,
            slots=20,
        )
    ] * wanted
    assert a_decision(share).replicas == wanted


@given(st.integers(1, 50), st.integers(1, 300), st.sampled_from([0.0, 0.1, 0.2, 0.25]))
def test_exactly_full_replicas_are_enough_in_spite_of_rounding(
    replicas: int, slots: int, headroom_ratio: float
) -> None:
    usable = slots * round(1 - headroom_ratio, 2)
    reports = [a_report(running=usable - 1 / replicas, queue_depth=1 / replicas, slots=slots)]
    assert a_decision(reports * replicas, headroom_ratio=headroom_ratio).replicas == replicas


@given(SOME_REPORTS, st.integers(1, 10))
def test_there_is_always_one(reports: list[ReplicaLoad], target: int) -> None:
    assert a_decision(reports, target=target).replicas >= 1
