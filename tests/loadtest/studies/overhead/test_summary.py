"""README's three rows are those of the results, and say where they come from."""

from loadtest.studies.overhead.readme import summary
from tests.loadtest.builders import compared, results

ROUTES = {"meta": {"commit": "def", "over_ours": {"ours-v1": {"8": compared(0.97, 1.5, 2.0)}}}}


def test_there_is_a_row_for_each_number_of_streams_and_a_figure_of_both_systems() -> None:
    shown = results()
    over = shown["meta"]["over_bare"]
    over["ours"] = {level: compared() for level in ("1", "8", "32", "32-unequal", "open-loop")}
    over["ray-serve-llm"] = {level: compared(0.7, 60.0, 70.0) for level in over["ours"]}

    header, _, *rows, _, caption = summary(shown, ROUTES).splitlines()

    assert header.startswith("| streams | tokens/s over baseline vLLM | added TTFT p50 |")
    assert [row.split(" | ")[0] for row in rows] == ["| 1", "| 8", "| 32"]
    assert rows[0] == (
        "| 1 | 0.99 (0.98 to 1.00) | +0.5 ms | +1.0 ms "
        "| 0.70 (0.69 to 0.71) | +60.0 ms | +70.0 ms |"
    )
    assert "by streams: at 8 0.97 of the tokens and +1.5 ms TTFT p50 (commit def)." in caption
    assert "2 cores of Example CPU" in caption
    assert "10 rounds, 2026-01-02, commit abcdef123456" in caption
    assert "[docs/overhead.md](docs/overhead.md)" in caption


def test_a_system_that_was_not_measured_is_left_out() -> None:
    assert "Ray Serve LLM" not in summary(results(), ROUTES)
