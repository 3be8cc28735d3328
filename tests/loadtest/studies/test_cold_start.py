"""The table of cold starts in docs/operations.md."""

from typing import Any

from loadtest.studies.cold_start import PUBLISHED, table

META = {
    "date": "2026-11-24T10:00:00+00:00",
    "commit": "abc",
    "machine": {"cores": 2, "cpu": "a CPU"},
}


def a_start(mode: str, cache: str, **phases_s: float) -> dict[str, Any]:
    return {"mode": mode, "cache": cache, "phases_s": phases_s}


RESULTS = {
    "meta": META,
    "starts": [
        a_start("eager", "kept", process=2, load=10, application=1, total=20),
        a_start("compiled", "kept", process=2, load=30, compile=20, total=40),
        a_start("eager", "kept", process=2, load=12, application=1, total=24),
    ],
}


def rows() -> list[list[str]]:
    lines = [line for line in table(RESULTS).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_a_row_has_the_means_of_its_starts_and_the_range() -> None:
    eager, _ = rows()
    assert eager[:3] == ["eager", "kept", "2"]
    assert (eager[3], eager[6]) == ("2.0 s", "11.0 s")
    assert eager[-1] == "22 s (20 to 24)"


def test_compilation_is_not_counted_twice() -> None:
    eager, compiled = rows()
    assert (eager[7], compiled[7]) == ("", "20.0 s")
    assert compiled[-2] == "8.0 s"


def test_kinds_that_were_not_started_have_no_row() -> None:
    assert [row[:2] for row in rows()] == [["eager", "kept"], ["compiled", "kept"]]


def test_others_figures_are_marked_as_such() -> None:
    text = table(RESULTS)
    assert "by others, not measured here" in PUBLISHED
    assert PUBLISHED in text
    assert "2026-11-24, commit abc" in text
