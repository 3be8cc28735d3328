"""The results file: by system and level, compared within rounds, and the promises on it."""

import pytest

from loadtest.studies.overhead.measure import Measured, Round
from loadtest.studies.overhead.plan import full_plan
from loadtest.studies.overhead.pure_path import pure_path_plan, pure_path_results
from loadtest.studies.overhead.results import bar, comparison, meta, rows, starts_measured
from tests.loadtest.builders import compared, repetition

SYSTEMS = ("bare", "ours", "ray-serve-llm")
PROMISES = [
    "tokens a second at 1: at least 0.97 of bare",
    "TTFT p50 at 1: at most 2 ms over bare",
]


def measured() -> Measured:
    """Two rounds on a machine that doubles its speed between them."""
    rounds: list[Round] = [
        {
            "bare": repetition(tokens_per_s=speed, ttft_ms=(20.0,), itl_ms=(8.0,)),
            "ours": repetition(tokens_per_s=speed * 0.98, ttft_ms=(21.0,), itl_ms=(8.5,)),
            "ray-serve-llm": repetition(tokens_per_s=speed / 2, ttft_ms=(70.0,), itl_ms=(0.0,)),
        }
        for speed in (100.0, 200.0)
    ]
    return Measured(rounds={"1": rounds, "open-loop": rounds}, disturbed=1)


def test_rows_are_by_system_and_level() -> None:
    found = rows(SYSTEMS, measured())

    assert {name: list(by_level) for name, by_level in found.items()} == {
        name: ["1", "open-loop"] for name in SYSTEMS
    }
    assert found["ours"]["1"] == {
        "tokens_per_s": 147.0,
        "ttft_p50_ms": 21.0,
        "ttft_p95_ms": 21.0,
        "itl_p50_ms": 8.5,
        "cpu_s_per_ktoken": pytest.approx((1 / 196 + 1 / 392) / 2 * 1e3, abs=1e-3),
    }


def test_all_are_compared_with_the_baseline_within_their_round() -> None:
    over_bare = comparison(SYSTEMS, measured())

    assert list(over_bare) == ["ours", "ray-serve-llm"]
    ours = over_bare["ours"]["1"]
    assert ours["tokens_per_s_ratio"] == {"value": 0.98, "low": 0.98, "high": 0.98}
    assert ours["ttft_p50_added_ms"]["value"] == 1.0
    assert ours["itl_p50_added_ms"]["value"] == 0.5
    assert over_bare["ray-serve-llm"]["1"]["tokens_per_s_ratio"]["value"] == 0.5


@pytest.mark.parametrize(
    ("ratio", "added_ms", "kept"),
    [(0.97, 2.0, [True, True]), (0.969, 2.0, [False, True]), (1.0, 2.1, [True, False])],
)
def test_the_bar_at_one_stream(ratio: float, added_ms: float, kept: list[bool]) -> None:
    found = bar({"1": compared(ratio, added_ms), "open-loop": compared(ratio=0.5)})

    assert found == dict(zip(PROMISES, kept, strict=True))


@pytest.mark.parametrize(("level", "place"), [("32", "32"), ("32-unequal", "32 of unequal length")])
@pytest.mark.parametrize(("added_ms", "kept"), [(10.0, True), (10.1, False)])
def test_the_bar_on_the_tail_at_32_streams(
    level: str, place: str, added_ms: float, kept: bool
) -> None:
    found = bar({level: compared(p50_ms=9.0, p95_ms=added_ms)})

    assert found[f"TTFT p95 at {place}: at most 10 ms over bare"] is kept
    assert next(iter(found)) == f"tokens a second at {place}: at least 0.97 of bare"
    assert len(found) == 2


def test_the_rate_of_the_open_loop_is_reported_and_the_promises_are_tierserves() -> None:
    plan = full_plan().with_open_loop(12.5)

    found = meta(
        SYSTEMS,
        measured(),
        plan,
        argv=["overhead"],
        model="random",
        engine={"seed": 0, "dtype": None},
    )

    assert found["open_loop"] == {"rate_rps": 12.5}
    assert found["requests_per_repetition"]["open-loop"] == plan.open_loop_requests
    assert list(found["bar"]) == PROMISES
    assert found["engine"] == {"seed": 0}


def test_an_interrupted_run_names_the_starts_that_it_had() -> None:
    first = measured().rounds["1"]

    assert starts_measured(full_plan(), Measured(rounds={"1": first * 2})) == 1
    assert starts_measured(full_plan(), Measured(rounds={"1": first * 4, "8": first * 2})) == 2


def test_tierserve_is_compared_with_a_baseline_server_beside_it_too() -> None:
    rounds: list[Round] = [
        {
            "bare": repetition(tokens_per_s=100.0, ttft_ms=(20.0,)),
            "bare-beside-ours": repetition(tokens_per_s=80.0, ttft_ms=(24.0,)),
            "ours": repetition(tokens_per_s=76.0, ttft_ms=(25.0,)),
        }
    ]
    done = Measured(rounds={"1": rounds})

    found = meta(tuple(rounds[0]), done, full_plan(), argv=["overhead"], model="random", engine={})

    over = found["over_bare_beside_ours"]["ours"]["1"]
    assert over["tokens_per_s_ratio"]["value"] == 0.95
    assert over["ttft_p50_added_ms"]["value"] == 1.0
    assert found["over_bare"]["bare-beside-ours"]["1"]["tokens_per_s_ratio"]["value"] == 0.8
    assert found["bar"]["tokens a second at 1: at least 0.97 of bare"] is False


def test_v1_is_compared_with_the_tiers_own_route_and_has_promises_of_its_own() -> None:
    rounds: list[Round] = [
        {
            "bare": repetition(tokens_per_s=100.0, ttft_ms=(20.0,)),
            "ours": repetition(tokens_per_s=98.0, ttft_ms=(21.0,)),
            "ours-v1": repetition(tokens_per_s=98.0 * 0.975, ttft_ms=(22.0,)),
        }
    ]
    done = Measured(rounds={"8": rounds})

    found = meta(tuple(rounds[0]), done, full_plan(), argv=["overhead"], model="random", engine={})

    assert found["over_ours"]["ours-v1"]["8"]["ttft_p50_added_ms"]["value"] == 1.0
    assert found["bar"]["tokens a second at 8 on /v1: at least 0.98 of /api/chat/v1"] is False
    assert found["bar"]["TTFT p50 at 8 on /v1: at most 1 ms over /api/chat/v1"] is True


def test_the_pure_path_counts_chunks_and_says_when_they_hold_several_tokens() -> None:
    done = Measured(
        rounds={
            "32": [
                {
                    "plain": repetition(tokens_per_s=20_000),
                    "ours": repetition(tokens_per_s=20_000, tokens_per_chunk=2.0),
                    "ours-v1": repetition(tokens_per_s=9_000),
                }
            ]
        }
    )

    found = pure_path_results(done)

    assert found["plain"]["32"]["chunks_per_s"] == 20_000
    assert found["ours"]["32"]["chunks_per_s"] == 10_000
    assert found["ours"]["32"]["tokens_per_chunk"] == 2.0
    assert found["ours"]["32"]["cpu_s_per_kchunk"] == 0.05
    assert found["chunks_per_s_ratio"]["32"]["value"] == 0.5
    assert found["v1_chunks_per_s_ratio"]["32"]["value"] == 0.9


def test_the_pure_path_has_levels_of_its_own() -> None:
    plan = pure_path_plan(full_plan().with_open_loop(5.0))

    assert [level.name for level in plan.levels] == ["1", "8", "32"]
    assert plan.rounds < full_plan().rounds
