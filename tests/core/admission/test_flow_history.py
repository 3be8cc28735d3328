"""Reservations and forecasts of each flow by themselves."""

from serve_app.core.admission.fair_queue import MOST_FLOWS
from serve_app.core.admission.fairness import ANONYMOUS, Flow
from serve_app.core.admission.flow_history import FlowHistories


def test_each_flow_has_its_own() -> None:
    histories = FlowHistories()
    histories.of(Flow("a")).reservations.add(1, due_s=5.0)
    assert histories.of(Flow("a", weight=2.0)).reservations.outstanding(0.0) == 1
    assert histories.of(Flow("b")).reservations.outstanding(0.0) == 0
    assert histories.of() is histories.of(ANONYMOUS)


def test_of_very_many_flows_the_first_are_forgotten() -> None:
    histories = FlowHistories()
    for number in range(MOST_FLOWS):
        histories.of(Flow(f"flow {number}")).reservations.add(1, due_s=5.0)
    histories.of(Flow("one more"))
    assert histories.of(Flow(f"flow {MOST_FLOWS - 1}")).reservations.outstanding(0.0) == 1
    assert histories.of(Flow("flow 0")).reservations.outstanding(0.0) == 0
