import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.replay.journal import DIRECT, EngineStep, Journal, JournalError, read, written

IDS = st.lists(st.integers(0, 1 << 20), max_size=5).map(tuple)
REASONS = st.none() | st.integers(0, 1 << 20) | st.text(max_size=10)
# As many digits as are written.
LOGPROB = st.floats(-9999.0, 0.0).map(lambda value: float(f"{value:.7g}"))
LOGPROBS = st.lists(
    st.lists(st.tuples(st.integers(0, 1 << 20), LOGPROB), min_size=1, max_size=3).map(tuple),
    max_size=3,
).map(tuple)
STEPS = st.builds(
    EngineStep,
    st.integers(0, 9),
    st.integers(0, 9),
    IDS,
    st.sampled_from(["stop", "length"]),
    REASONS,
    cached_tokens=st.integers(0, 9),
    cache_written_tokens=st.integers(0, 9),
    logprobs=LOGPROBS,
) | st.builds(EngineStep, st.integers(0, 9), st.integers(0, 9), IDS)


@given(st.lists(STEPS, max_size=8))
def test_a_journal_is_read_as_it_was_written(steps: list[EngineStep]) -> None:
    text = written(steps)
    assert text.isascii()
    assert "\n" not in text
    assert read(text) == tuple(steps)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "1",
        "1 2",
        "1 2 x",
        "1 2+3 4",
        "1 + 4",
        "1 2 3~4",
        "1 2 3~4:x",
        "1 2 3 stop",
        "1 2 3 stop {",
        ";",
    ],
)
def test_what_is_no_journal_is_refused(text: str) -> None:
    with pytest.raises(JournalError):
        read(text)


def test_a_step_is_sent_once_and_what_is_past_never() -> None:
    past = EngineStep(0, 0, (1,))
    journal = Journal((past,))
    journal.record(EngineStep(0, 0, (2,)))
    assert journal.take_unsent() == "0 0 2"
    assert journal.take_unsent() == ""
    assert list(journal.past_of(0)) == [(0, past)]
    assert list(journal.past_of(1)) == []


def test_a_prompt_takes_the_numbers_of_all_calls_that_it_may_make() -> None:
    journal = Journal()
    assert [journal.number_calls(4), journal.number_calls(7), journal.number_calls(1)] == [0, 4, 11]


def test_a_journal_says_that_reasoning_was_left_out_and_has_no_step_for_it() -> None:
    journal, step = Journal(), EngineStep(0, 0, (7,))
    journal.leave_reasoning_out()
    journal.record(step)
    again = Journal(read(journal.take_unsent()))
    assert (journal.direct, again.direct, again.past) == (True, True, (step,))
    assert not Journal((step,)).direct
    assert DIRECT not in again.past
