"""What fewer replicas would have missed of a while."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.scaling.slo_misses import (
    LONGEST_GAP_S,
    SAMPLE_S,
    MissSample,
    MissShares,
    fewest_over,
    is_due,
    remember_misses,
)

WINDOW_S = 100.0
# One replica misses all, two hardly any; and with chance a little more than a hundredth.
CALM = MissShares(2, (0.002,))
TREMBLE = MissShares(2, (0.03, 0.001))
BURST = MissShares(4, (0.2,))


def window(seconds: dict[int, MissShares], rate_rps: float = 10.0) -> tuple[MissSample, ...]:
    """Calm for the window and a little more, but for these seconds of it."""
    samples: tuple[MissSample, ...] = ()
    for at in range(int(WINDOW_S) + 2):
        sample = MissSample(float(at), rate_rps, seconds.get(at, CALM))
        samples = remember_misses(samples, sample, longest_s=WINDOW_S)
    return samples


def fewest(samples: tuple[MissSample, ...], *, most: int = 8, allowed: float = 0.01) -> int:
    return fewest_over(samples, WINDOW_S + 1, WINDOW_S, allowed=allowed, most=most)


def test_a_moment_by_chance_needs_nothing() -> None:
    assert fewest(window({})) == 2
    assert fewest(window({50: TREMBLE, 70: TREMBLE})) == 2


def test_many_such_moments_do() -> None:
    assert fewest(window(dict.fromkeys(range(0, 100, 2), TREMBLE))) == 3


def test_a_burst_of_seconds_does() -> None:
    assert fewest(window(dict.fromkeys(range(40, 50), BURST))) == 5


def test_what_was_before_the_window_does_not() -> None:
    samples = window({0: BURST})
    assert fewest(samples) == 2


def test_a_window_that_is_not_covered_says_nothing() -> None:
    assert fewest_over((), 9.0, WINDOW_S, allowed=0.01, most=7) == 7
    assert fewest_over(window({})[2:], WINDOW_S + 1, WINDOW_S, allowed=0.01, most=7) == 7


def test_after_a_gap_it_begins_anew() -> None:
    later = MissSample(WINDOW_S + 1 + 2 * LONGEST_GAP_S, 10.0, CALM)
    assert remember_misses(window({}), later, longest_s=WINDOW_S) == (later,)


def test_one_that_covers_the_window_is_remembered_and_no_more() -> None:
    samples = window({})
    assert samples[0].at_s <= WINDOW_S + 1 - WINDOW_S
    assert len(samples) <= WINDOW_S / SAMPLE_S + 2


def test_samples_are_so_far_apart() -> None:
    samples = window({})
    assert is_due((), 0.0)
    assert not is_due(samples, WINDOW_S + 1 + SAMPLE_S / 2)
    assert is_due(samples, WINDOW_S + 1 + SAMPLE_S)


def test_fewer_than_those_at_least_miss_all() -> None:
    assert TREMBLE.at_least(1) == TREMBLE
    assert [TREMBLE.at_least(3).with_count(n) for n in (1, 2, 3, 4)] == [1.0, 1.0, 0.001, 0.0]
    assert [TREMBLE.at_least(9).with_count(n) for n in (8, 9)] == [1.0, 0.0]


@given(
    load=st.lists(
        st.tuples(
            st.floats(0, 50), st.integers(1, 6), st.lists(st.floats(0, 1), max_size=4).map(sorted)
        ),
        min_size=1,
        max_size=60,
    ),
    allowed=st.floats(0, 0.5),
    most=st.integers(1, 12),
)
def test_no_fewer_would_do_and_so_many_do(
    load: list[tuple[float, int, list[float]]], allowed: float, most: int
) -> None:
    samples = tuple(
        MissSample(float(at), rate_rps, MissShares(first, tuple(reversed(shares))))
        for at, (rate_rps, first, shares) in enumerate(load)
    )

    def enough(count: int) -> bool:
        missed = sum(s.rate_rps * s.shares.with_count(count) for s in samples)
        return missed <= allowed * sum(s.rate_rps for s in samples)

    now_s = samples[-1].at_s
    found = fewest_over(samples, now_s, now_s, allowed=allowed, most=most)
    assert 1 <= found <= most
    assert found == most or enough(found)
    assert found == 1 or not enough(found - 1)
