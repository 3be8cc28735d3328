"""What the gate promises, it keeps: of who is admitted the first token comes in time, who comes
back after its Retry-After gets in, and an overload costs no goodput. Of prompts and answers of all
lengths.
"""

import pytest

from tests.loadtest.simulation.gate_promise import MIXES, play, uniform

IN_TIME, HONEST, GOODPUT = 0.99, 0.9, 0.95
# The rest of the grid is in `gate_promise.main`.
QUICK = (
    "10 / 400",
    "10 / 4000",
    "4000 / 4000",
    "2000 / 15",
    "2000 / 50, exponential",
    "4000 / 10",
    "20 or 4000 / 200",
    "10 to 1000 / 10 to 1000",
    "10 to 4000 / 10 to 4000",
)


@pytest.mark.parametrize("name", QUICK)
def test_first_tokens_come_in_time_at_every_load(name: str) -> None:
    mix, longest_answer = MIXES[name]
    at_capacity = play(mix, 1.0, longest_answer=longest_answer)
    for load in (0.5, 1.5, 3.0):
        kept = play(mix, load, longest_answer=longest_answer)
        assert kept.in_time >= IN_TIME, (load, kept)
        assert kept.within_wait >= IN_TIME, (load, kept)
        assert kept.honest is None or kept.honest >= HONEST, (load, kept)
        if load > 1:
            assert kept.good_share >= GOODPUT * at_capacity.good_share, (load, kept, at_capacity)


def test_at_half_of_the_capacity_nobody_is_refused() -> None:
    mix, longest_answer = MIXES["10 to 1000 / 10 to 1000"]
    assert play(mix, 0.5, longest_answer=longest_answer).refused == 0


@pytest.mark.parametrize("most_prompt_tokens", [1000, 3000, 6000])
def test_a_flood_on_few_slots_finds_its_promises_kept(most_prompt_tokens: int) -> None:
    """Few starts within the wait, and prompts that take half of the time, as where a CPU serves.
    Nothing is known when it begins."""
    at_capacity, kept = (
        play(
            uniform(most_prompt_tokens, 400),
            load,
            longest_answer=2400,
            most_requests=700,
            max_wait_s=2.0,
            slots=29,
        )
        for load in (1.0, 2.5)
    )
    assert kept.within_wait >= 0.96, kept
    assert kept.honest is not None
    assert kept.honest >= 0.95, kept
    assert kept.good_share >= GOODPUT * at_capacity.good_share, (kept, at_capacity)
