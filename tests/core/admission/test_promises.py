"""Reservations and forecasts of each flow by themselves."""

from serve_app.core.admission.fair_queue import MOST_FLOWS
from serve_app.core.admission.fairness import ANONYMOUS, Flow
from serve_app.core.admission.promises import Promises


def test_each_flow_has_its_own() -> None:
    promises = Promises()
    promises.of(Flow("a")).reservations.add(1, due_s=5.0)
    assert promises.of(Flow("a", weight=2.0)).reservations.outstanding(0.0) == 1
    assert promises.of(Flow("b")).reservations.outstanding(0.0) == 0
    assert promises.of() is promises.of(ANONYMOUS)


def test_of_very_many_flows_the_first_are_forgotten() -> None:
    promises = Promises()
    for number in range(MOST_FLOWS):
        promises.of(Flow(f"flow {number}")).reservations.add(1, due_s=5.0)
    promises.of(Flow("one more"))
    assert promises.of(Flow(f"flow {MOST_FLOWS - 1}")).reservations.outstanding(0.0) == 1
    assert promises.of(Flow("flow 0")).reservations.outstanding(0.0) == 0
