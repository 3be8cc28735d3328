"""What a step took is found whatever the way of its chunks to the client was."""

from array import array

import pytest

from loadtest.calibration.samples import Step, busy_times, first_tokens, steps
from loadtest.calibration.waves import Answered, Wave
from tests.loadtest.calibration.built import (
    PAIRS_MS,
    PROMPT_MS,
    answered,
    busy,
    first_token_ms,
    record,
    step_ms,
)


def even(step_s: float, count: int, begin_s: float = 1.0) -> "array[float]":
    return array("d", (begin_s + step_s * number for number in range(count)))


def one_step(*records: "array[float]", tokens: int = 0) -> Step:
    own = tuple(record(number, 100, token_s, tokens) for number, token_s in enumerate(records))
    [step] = steps([Answered(Wave(len(own), 100, 48), own)])
    return step


def test_a_wave_is_a_step_at_its_batch_and_context() -> None:
    [step] = steps([answered(4, 500, 48)])
    assert step.sequences == 4
    assert step.context_tokens == pytest.approx(4 * (500 + 24), abs=8)
    assert step.step_ms == pytest.approx(step_ms(4, step.context_tokens), rel=0.01)


def test_chunks_that_were_read_together_do_not_shorten_a_step() -> None:
    pairs = array("d", (1.0 + 0.1 * (number // 2) for number in range(49)))
    assert one_step(pairs).step_ms == pytest.approx(50.0)


def test_a_chunk_of_two_tokens_is_two_steps() -> None:
    assert one_step(even(0.1, 25), tokens=50).step_ms == pytest.approx(50.0)


def test_a_pause_of_the_machine_is_left_out() -> None:
    late = even(0.05, 49)
    for number in range(20, 49):
        late[number] += 3.0
    assert one_step(late).step_ms == pytest.approx(50.0)


def test_the_time_in_which_others_are_prefilled_is_left_out() -> None:
    early = array("d", [*even(0.2, 10), *even(0.05, 40, begin_s=3.0)])
    assert one_step(early, even(0.05, 40, begin_s=3.0)).step_ms == pytest.approx(50.0)


def test_a_wave_whose_requests_hardly_overlap_reports_nothing() -> None:
    apart = [record(0, 100, even(0.05, 48)), record(1, 100, even(0.05, 48, begin_s=3.2))]
    assert steps([Answered(Wave(2, 100, 48), tuple(apart))]) == []


def test_prompts_tell_first_tokens_only_when_alone() -> None:
    found = first_tokens([answered(1, 300, 2), answered(2, 300, 2)])
    assert [first.prompt_tokens for first in found] == [300]
    assert found[0].ttft_ms == pytest.approx(first_token_ms(300))


def test_an_answer_of_a_few_tokens_reports_no_step() -> None:
    assert steps([answered(1, 300, 4)]) == []


@pytest.mark.parametrize("clients", [4, 16])
def test_busy_time_is_its_steps_and_its_prompts(clients: int) -> None:
    [time] = busy_times([busy(clients, 6 * clients)])
    assert 0.7 * clients < time.sequences <= clients
    prompts_ms = PROMPT_MS * time.prompt_tokens + PAIRS_MS * time.prompt_pairs / 1e6
    own_ms = (time.took_ms - prompts_ms) / time.steps
    assert own_ms == pytest.approx(step_ms(0, time.context_tokens) + 2.5 * time.sequences, rel=0.03)


def test_busy_time_reports_no_steps_and_first_tokens_of_waves() -> None:
    assert steps([busy(4, 16)]) == []
    assert first_tokens([busy(1, 4)]) == []


def test_busy_clients_that_asked_only_once_tell_nothing() -> None:
    assert busy_times([busy(4, 4)]) == []
