"""A flood delays and refuses only itself: a light key beside twenty times the capacity."""

import pytest

from tests.loadtest.simulation.flood import FLOOD, LIGHT, MIXES, FlowLoad, FlowOutcome, play

SECONDS, SLOTS = 60.0, 32
# Against the same load beside as much as the replica can do, which is no flood.
SLOWER = 1.3


def flooded(
    name: str,
    times: float,
    *,
    retries: int = 0,
    express: int | None = None,
    slots: int | None = SLOTS,
) -> dict[str, FlowOutcome]:
    light, flood = MIXES[name]
    loads = [FlowLoad(LIGHT, 0.2, light), FlowLoad(FLOOD, times, flood)]
    return play(
        loads, gpu="RTX4090", slots=slots, express=express, duration_s=SECONDS, retries=retries
    )


@pytest.mark.parametrize(
    ("name", "times", "slots"),
    [
        ("100 / 400", 20.0, SLOTS),
        ("10 / 50 beside 500 / 300", 20.0, SLOTS),
        ("10 to 1000 / 10 to 1000", 20.0, SLOTS),
        ("100 / 400 beside 2000 / 15", 5.0, None),
    ],
)
def test_beside_a_flood_first_tokens_come_as_beside_a_load_that_is_none(
    name: str, times: float, slots: int | None
) -> None:
    beside = flooded(name, 0.75, slots=slots)["light"]
    flood = flooded(name, times, slots=slots)
    assert flood["light"].refused == 0
    assert flood["light"].p(95) <= SLOWER * beside.p(95)
    assert flood["flood"].refused > flood["flood"].served


# More than a hundred light requests on each: of 37, p95 is that of the two which come as a batch is
# read. The second one's steps grow by more with the batch.
@pytest.mark.parametrize(
    ("gpu", "slower", "duration_s"), [("T4", SLOWER, 3 * SECONDS), ("RTX4090", 1.5, SECONDS)]
)
def test_answers_of_one_length_that_end_together_keep_nobody_else_waiting(
    gpu: str, slower: float, duration_s: float
) -> None:
    light, flood = MIXES["100 / 400, all of one length"]
    loads = [FlowLoad(LIGHT, 0.2, light), FlowLoad(FLOOD, 20.0, flood)]
    alone, beside = (
        play(loads[:flows], gpu=gpu, slots=SLOTS, duration_s=duration_s, retries=0)["light"]
        for flows in (1, 2)
    )
    assert len(alone.ttft_s) > 100
    assert beside.refused == 0
    assert beside.p(95) <= slower * alone.p(95)


def test_retry_after_is_honest_for_the_flood() -> None:
    flood = flooded("100 / 400", 3.0, retries=1)
    assert flood["flood"].refused > 100
    assert (flood["flood"].honest or 0.0) >= 0.9
    assert flood["light"].refused == 0


def test_without_express_slots_a_first_token_waits_for_the_floods_last_one() -> None:
    without = flooded("100 / 400", 20.0, express=0)["light"]
    assert without.p(95) > 2 * flooded("100 / 400", 20.0)["light"].p(95)
