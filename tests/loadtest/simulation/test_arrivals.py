"""More of a trace, less of it, and a day of it."""

from dataclasses import replace

import numpy as np
import pytest

from loadtest.simulation.arrivals import ArrivalColumns, arrivals_of, day_curve
from loadtest.simulation.trace import Trace
from serve_app.core.tiers import Tier
from tests.loadtest.simulation.builders import a_request, traffic


def an_hour(rate_rps: float = 1.0) -> Trace:
    return traffic((Tier.CHAT, 0, 3600, rate_rps), (Tier.REASONING, 0, 3600, rate_rps / 4))


def rows(arrivals: ArrivalColumns) -> list[tuple[float, int, int]]:
    columns = (arrivals.arrival_s, arrivals.tier, arrivals.prompt_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_trace_alone_is_as_recorded() -> None:
    trace = Trace((a_request(1.0), a_request(2.0, tier=Tier.REASONING, prompt_tokens=7)))
    assert rows(arrivals_of(trace)) == [(1.0, 0, 100), (2.0, 1, 7)]
    assert trace.expected_requests == 2


def test_so_many_times_the_load_comes_in_the_same_span() -> None:
    trace = an_hour()
    arrivals = arrivals_of(replace(trace, times=2.5))
    assert len(arrivals) == pytest.approx(2.5 * len(trace.requests), rel=0.03)
    assert arrivals.duration_s == trace.duration_s
    assert (np.diff(arrivals.arrival_s) >= 0).all()
    assert arrivals.arrival_s[-1] <= trace.duration_s
    assert np.mean(arrivals.tier) == pytest.approx(0.2, abs=0.02)


def test_whole_copies_have_every_request_and_do_not_come_together() -> None:
    trace = Trace(tuple(a_request(float(at_s)) for at_s in range(11)))
    arrivals = arrivals_of(replace(trace, times=3.0))
    assert len(arrivals) == 33
    assert len(set(arrivals.arrival_s.tolist())) > 22


def test_a_share_of_it_is_every_so_manieth_of_each_tier() -> None:
    trace = an_hour(2.0)
    tenth = rows(arrivals_of(trace, share=0.1))
    whole = rows(arrivals_of(trace))
    for code in (0, 1):
        assert [row for row in tenth if row[1] == code] == [r for r in whole if r[1] == code][::10]


def test_a_share_of_a_day_is_counted_on_from_hour_to_hour() -> None:
    trace = replace(an_hour(), day=True, times=2.0)
    tenth, whole = arrivals_of(trace, share=0.1), arrivals_of(trace)
    assert len(tenth) == pytest.approx(len(whole) / 10, rel=0.01)


def test_a_day_has_the_mean_load_and_its_curve() -> None:
    trace = replace(an_hour(), day=True)
    arrivals = arrivals_of(trace)
    assert len(arrivals) == pytest.approx(trace.expected_requests, rel=0.02)
    by_hour = np.bincount((arrivals.arrival_s // 3600).astype(int), minlength=24)
    assert by_hour[13:15].sum() / by_hour[1:3].sum() == pytest.approx(4.0, rel=0.15)
    assert day_curve(np.arange(0, 86_400, 60).astype(np.float64)).mean() == pytest.approx(1.0)
    assert arrivals.duration_s == 86_400


def test_more_of_a_recorded_day_keeps_its_curve() -> None:
    night_and_day = traffic((Tier.CHAT, 0, 43_200, 0.02), (Tier.CHAT, 43_200, 86_400, 0.1))
    arrivals = arrivals_of(replace(night_and_day, times=8.0))
    by_hour = np.bincount((arrivals.arrival_s // 3600).astype(int), minlength=24)
    assert by_hour[13:24].mean() / by_hour[1:12].mean() == pytest.approx(5.0, rel=0.1)
    assert len(set(arrivals.arrival_s.tolist())) > 7 * len(night_and_day.requests)


def test_more_of_a_day_along_the_curve_is_more_in_each_hour() -> None:
    once, more = (arrivals_of(replace(an_hour(), day=True, times=times)) for times in (1.0, 3.0))
    by_hour = [
        np.bincount((arrivals.arrival_s // 3600).astype(int), minlength=24)
        for arrivals in (once, more)
    ]
    assert by_hour[1] / by_hour[0] == pytest.approx(3.0, rel=0.15)


def test_equal_seeds_give_equal_requests_and_others_do_not() -> None:
    trace = replace(an_hour(), times=1.5)
    assert rows(arrivals_of(trace, seed=1)) == rows(arrivals_of(trace, seed=1))
    assert rows(arrivals_of(trace, seed=1)) != rows(arrivals_of(trace, seed=2))
