"""The README's table says what was measured, against what, and which promises it breaks."""

from loadtest.studies.overhead.results import table
from tests.loadtest.builders import compared, figures, results


def test_systems_stand_together_by_level() -> None:
    rows = [line.split(" | ")[:3] for line in table(results()).splitlines()[2:6]]

    assert rows == [
        ["| 1", "bare vLLM server", "100"],
        ["| 1", "tierserve", "99"],
        ["| open loop", "bare vLLM server", "1,500"],
        ["| open loop", "tierserve", "1,480"],
    ]


def test_a_row_names_its_units_and_what_is_added_to_the_baseline() -> None:
    bare, ours = table(results()).splitlines()[2:4]

    assert bare == "| 1 | bare vLLM server | 100 |  | 20.0 ms | 25.0 ms | 8.3 ms | 1.23 |"
    assert ours == (
        "| 1 | tierserve | 99 | 0.99 (0.98 to 1.00) | 20.0 (+0.5) ms | 25.0 (+1.0) ms "
        "| 8.3 (-0.2) ms | 1.23 |"
    )


def test_the_caption_says_where_when_and_which_promises_are_broken() -> None:
    caption = table(results()).splitlines()[-1]

    assert "Kept: as fast. Missed: as soon." in caption
    assert "12.5 requests a second" in caption
    assert "10 rounds, 2 cores of Example CPU, 2026-01-02, commit abcdef123456" in caption
    assert "Small random Qwen2 (7M), " in caption
    assert "make bench-overhead" in caption
    assert "Ray Serve LLM" not in caption


def test_the_caption_names_a_real_model() -> None:
    shown = results()
    shown["meta"]["model"] = "smollm2"

    assert "Model `smollm2`, " in table(shown).splitlines()[-1]


def test_answers_of_unequal_length_are_explained_where_they_were_measured() -> None:
    shown = results()
    shown["bare"]["32-unequal"] = shown["ours"]["32-unequal"] = figures(50.0)
    shown["meta"]["over_bare"]["ours"]["32-unequal"] = compared()
    shown["meta"]["starts"] = 2
    said = table(shown)

    assert "| 32 of unequal length | bare vLLM server | 50 |" in said
    assert "Of unequal length: half to one and a half times the tokens" in said
    assert "2 starts of each server, " in said
    assert "unequal" not in table(results())


def test_the_bursts_of_ray_serve_llm_are_explained_where_it_was_measured() -> None:
    shown = results()
    levels = ("1", "open-loop")
    shown["ray-serve-llm"] = {level: figures(50.0) for level in levels}
    shown["meta"]["over_bare"]["ray-serve-llm"] = {level: compared() for level in levels}

    assert "Ray Serve LLM hands on the tokens of 50 ms in one go" in table(shown)


def test_what_is_left_without_rays_idle_share_is_reported() -> None:
    shown = results()
    shown["meta"]["over_bare_beside_ours"] = {"ours": {"32": compared(0.96)}}

    assert (
        "tierserve has, at 32: 0.96 (0.95 to 0.97) of its tokens a second, TTFT p50 +0.5 ms and "
        "p95 +1.0 ms" in table(shown)
    )


def test_what_the_gateway_costs_is_reported() -> None:
    shown = results()
    shown["meta"]["over_ours"] = {"ours-v1": {"8": compared(0.97, 1.5, 2.0)}}

    assert (
        "Over `/api/chat/v1` of the same server it has, at 8: 0.97 (0.96 to 0.98) of its tokens a "
        "second, TTFT p50 +1.5 ms and p95 +2.0 ms." in table(shown)
    )


def test_where_the_cpu_goes_is_reported() -> None:
    shown = results()
    ours = {"engine": 0.7, "server": 0.29, "haproxy": 0.05, "ray": 0.13}
    shown["meta"]["cpu_s_per_ktoken_by_part"] = {
        "bare": {"32": {"engine": 0.7, "server": 0.28, "ray": 0.0}},
        "ours": {"32": ours},
    }

    assert "and of Ray with all else: at 32 0.28 and 0.29, 0.05 and 0.13." in table(shown)


def test_the_path_alone_is_reported_beside_the_plain_server() -> None:
    shown = results()
    shown["meta"]["pure_path"] = {
        "plain": {"32": {"chunks_per_s": 20000.0, "cpu_s_per_kchunk": 0.05}},
        "ours": {"32": {"chunks_per_s": 10000.0, "cpu_s_per_kchunk": 0.1}},
        "chunks_per_s_ratio": {"32": {"value": 0.5, "low": 0.4, "high": 0.6}},
    }

    shown["meta"]["pure_path"]["ours-v1"] = {"32": {"chunks_per_s": 9000.0}}
    shown["meta"]["pure_path"]["v1_chunks_per_s_ratio"] = {
        "32": {"value": 0.9, "low": 0.8, "high": 1.0}
    }
    assert "At `/v1`: at 32 9,000, 0.90 (0.80 to 1.00) of it." in table(shown)
    assert (
        "at 32 20,000 and 10,000, 0.50 (0.40 to 0.60) of it, 50 and 100 µs of CPU a chunk"
        in table(shown)
    )
