"""Who has most makes room, and nobody for one that would have as much."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.replay.kept_order import gives_way

HELD = st.dictionaries(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 50), max_size=4)


@given(HELD, st.sampled_from(["", "a", "d"]), st.integers(1, 20))
def test_who_gives_way_has_more_than_the_one_that_asks_would_have(
    held: dict[str, int], asking: str, more: int
) -> None:
    chosen = gives_way(held, asking, more)
    if chosen != asking:
        assert held[chosen] == max(held.values()) > held.get(asking, 0) + more
    else:
        others = [size for caller, size in held.items() if caller != asking]
        assert max(others, default=0) <= held.get(asking, 0) + more


@given(HELD.filter(bool), st.sampled_from(["", "a", "d"]), st.integers(1, 20), st.integers(0, 9))
def test_a_caller_with_no_more_than_an_equal_part_gives_way_to_no_other(
    held: dict[str, int], asking: str, more: int, free: int
) -> None:
    """Where what is there, and a bit that is free, does not do for what is asked for."""
    limit = sum(held.values()) + min(free, more - 1)
    chosen = gives_way(held, asking, more)
    if chosen != asking:
        assert held[chosen] * len(held.keys() | {asking}) > limit


def test_one_alone_gives_way_to_itself() -> None:
    assert gives_way({}, "a", 1) == "a"
    assert gives_way({"a": 7}, "a", 1) == "a"
