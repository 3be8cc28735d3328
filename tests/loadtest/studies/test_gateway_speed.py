"""What one process of /v1 forwards, measured for real in a second or two."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.__main__ import parse
from loadtest.servers.scripted_stream import EVENT, LAST
from loadtest.studies.gateway_speed import EVENT_BEGIN, page, run, verdict


def test_each_event_is_counted_once() -> None:
    assert (EVENT.count(EVENT_BEGIN), LAST.count(EVENT_BEGIN)) == (1, 1)


@pytest.mark.slow
def test_a_short_run_counts_all_events_of_both_ways(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    argv = ["gateway-speed", "--streams", "2", "--paced", "2", "--events", "20", "--rounds", "2"]
    argv += ["--requests", "3", "--pairs", "1", "--out", str(out)]
    assert run(parse(argv), argv, Console(quiet=True)) == 0
    document = json.loads(out.read_text())
    flat_out, paced = document["levels"]
    for way in ("direct", "gateway"):
        assert [each["chunks"] for each in flat_out["rounds"][way]] == [2 * 3 * 20] * 2
        assert [each["chunks"] for each in paced["rounds"][way]] == [2 * 20] * 2
    assert flat_out["gateway_cpu_us_per_chunk"] > 0
    assert document["ttft"][0]["direct_p50_ms"] > 0
    assert "MISSED" in page(document) or "kept" in page(document)


@pytest.mark.parametrize(
    ("chunks", "added_ms", "kept"), [(20_000, 1.0, True), (19_999, 1.1, False)]
)
def test_a_bar_is_kept_or_not(chunks: int, added_ms: float, kept: bool) -> None:
    document = {
        "levels": [
            {"paced": False, "streams": 400, "gateway_chunks_per_cpu_s": 40_000},
            {"paced": True, "streams": 200, "gateway_chunks_per_cpu_s": chunks},
            {"paced": True, "streams": 1, "gateway_chunks_per_cpu_s": 10_000},
        ],
        "ttft": [{"streams": 1, "added_p50_ms": added_ms}],
    }
    assert list(verdict(document).values()) == [kept, kept]
