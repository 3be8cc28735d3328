"""When a direct answer is confirmed."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.reasoning.pair import is_confirmed

values = st.sampled_from([None, "20", "21"])


def test_the_last_trial_answer_decides() -> None:
    assert is_confirmed("20", ["20"])
    assert is_confirmed("20", ["21", None, "20"])
    assert not is_confirmed("20", ["20", "21"])
    assert not is_confirmed("20", [])


@given(direct=values, trials=st.lists(values))
def test_what_says_nothing_confirms_nothing(direct: str | None, trials: list[str | None]) -> None:
    if is_confirmed(direct, trials):
        assert direct is not None
        assert trials[-1] == direct
    assert not is_confirmed(None, trials)
    assert not is_confirmed(direct, [*trials, None])
