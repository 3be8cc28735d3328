"""Made-up soaks are judged: what grew, drifted or was lost is found, and noise is not."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.soak import report
from loadtest.soak.judge import judge
from loadtest.soak.observations import read
from loadtest.soak.verdicts import Row, Verdict, overall
from tests.loadtest.soak.made import HOUR_S, MIB, a_fault, request, write_soak

ENDED = (
    {"event": "idle", "after_s": 0.3, "left": {}, "given_up": 0},
    {"event": "stopped", "processes": [], "shared_memory": {"sem.mp-1": 4096}},
)


def judged(tmp_path: Path, **facts: Any) -> dict[str, Row]:
    facts["events"] = [*facts.get("events", ()), *ENDED]
    path = write_soak(tmp_path / "soak", **facts)
    return {row.name: row for row in judge(path, read(path))}


def failed(rows: dict[str, Row]) -> list[str]:
    return [name for name, row in rows.items() if row.verdict is Verdict.FAIL]


def test_a_day_of_noise_passes(tmp_path: Path) -> None:
    rows = judged(tmp_path)
    assert overall(list(rows.values())) is Verdict.PASS, rows
    assert rows["memory of engine chat"].verdict is Verdict.PASS
    assert rows["chat: TTFT p50, last to first"].verdict is Verdict.PASS


def test_a_slow_leak_is_found_before_it_has_reached_the_limit(tmp_path: Path) -> None:
    rows = judged(tmp_path, memory=lambda at_s: (900 + 5 * at_s / HOUR_S) * MIB)
    assert failed(rows) == ["memory of engine chat"]
    assert (
        "+360" in rows["memory of engine chat"].value
        or "+35" in rows["memory of engine chat"].value
    )


def test_a_leak_is_found_over_restarts_and_a_restart_is_no_shrinking(tmp_path: Path) -> None:
    starts_s = [0.0, 6 * HOUR_S, 12 * HOUR_S, 18 * HOUR_S]

    def leaking(at_s: float) -> float:
        age_s = at_s - max(start_s for start_s in starts_s if start_s <= at_s)
        return (900 + 10 * age_s / HOUR_S) * MIB

    rows = judged(tmp_path, memory=leaking, restarts_s=starts_s[1:], noise=0.001)
    assert failed(rows) == ["memory of engine chat"]


def test_what_a_new_process_takes_in_its_first_minutes_is_no_leak(tmp_path: Path) -> None:
    rows = judged(tmp_path, memory=lambda at_s: (900 - 400 * (at_s < 600)) * MIB, noise=0.001)
    assert failed(rows) == []


def test_ten_minutes_are_too_short_for_a_slope(tmp_path: Path) -> None:
    rows = judged(tmp_path, hours=1 / 6, baselines=8, memory=lambda at_s: (900 + at_s / 60) * MIB)
    memory = rows["memory of engine chat"]
    assert memory.verdict is Verdict.SHORT
    assert "needs an hour" in memory.reason
    assert overall(list(rows.values())) is Verdict.SHORT


def test_what_has_grown_beyond_the_limit_fails_however_short(tmp_path: Path) -> None:
    rows = judged(tmp_path, hours=1 / 6, baselines=8, memory=lambda at_s: (900 + at_s) * MIB)
    assert failed(rows) == ["memory of engine chat"]


def test_handles_series_and_logs_that_grow_are_found(tmp_path: Path) -> None:
    rows = judged(
        tmp_path,
        handles=lambda at_s: 100 + at_s / HOUR_S * 2,
        series=lambda at_s: 1500 + at_s / HOUR_S * 20,
        session=lambda at_s: at_s / HOUR_S * 200 * MIB,
    )
    assert failed(rows) == [
        "file handles, by role",
        "series of GET /metrics",
        "Ray's session folder, logs",
    ]


def test_slots_that_are_never_given_back_are_found(tmp_path: Path) -> None:
    rows = judged(tmp_path, surplus=lambda at_s: int(at_s > 20 * HOUR_S))
    assert failed(rows) == ["running and waiting beyond what clients have open"]


def test_a_tier_that_becomes_slow_is_found(tmp_path: Path) -> None:
    rows = judged(tmp_path, ttft=lambda at_s: 0.1 + 0.1 * at_s / (24 * HOUR_S))
    assert failed(rows) == ["chat: TTFT p50, last to first", "chat: TTFT p95, last to first"]
    assert rows["chat: goodput"].verdict is Verdict.PASS


def test_ends_of_seconds_are_too_short_to_be_called_slow(tmp_path: Path) -> None:
    rows = judged(tmp_path, hours=1 / 60, baselines=4, ttft=lambda at_s: 0.1 + at_s / 60)
    assert failed(rows) == []
    assert rows["latency"].verdict is Verdict.SHORT


def test_a_tier_that_misses_its_slo_more_and_more_is_found(tmp_path: Path) -> None:
    rows = judged(tmp_path, ttft=lambda at_s: 0.1 if at_s < 12 * HOUR_S else 1.1)
    assert "chat: goodput" in failed(rows)


def lost(at_s: float, ended_s: float, **facts: Any) -> dict[str, Any]:
    facts = {"outcome": "error", "reason": "connection", "wrong": "connection"} | facts
    return request(1, at_s, **facts) | {"ended_s": ended_s}


def test_only_a_fault_that_cuts_may_lose_answers_and_only_while_it_lasts(tmp_path: Path) -> None:
    faults = [a_fault("haproxy", 1000, 1006, 1006), a_fault("controller", 2000, 2004, 2004)]
    names = ["haproxy", "controller"]
    before_and_in_it = [lost(990, 1001), lost(1005, 1005.1)]
    rows = judged(tmp_path / "a", events=faults, faults=names, requests=before_and_in_it)
    assert failed(rows) == []
    assert rows["answers lost while a part was killed"].value == "2"
    rows = judged(tmp_path / "b", events=faults, faults=names, requests=[lost(1007, 1008)])
    assert failed(rows) == ["answers lost outside of faults"]
    assert "short of chat: connection" in rows["answers lost outside of faults"].reason
    rows = judged(tmp_path / "c", events=faults, faults=names, requests=[lost(1990, 2001)])
    assert failed(rows) == ["answers lost during faults that cut nothing"]


def test_a_fault_that_is_not_over_in_its_time_fails_and_one_without_time_is_reported(
    tmp_path: Path,
) -> None:
    events = [a_fault("haproxy", 1000, 1006, 1006), a_fault("haproxy", 9000, None, 9030)]
    rows = judged(tmp_path, events=events, faults=["haproxy", "engine"])
    assert failed(rows) == ["fault haproxy: over"]
    assert rows["fault haproxy: over"].value == "1 of 2 not"
    assert rows["fault engine: over"].verdict is Verdict.SHORT


def test_counts_and_processes_that_are_left_fail(tmp_path: Path) -> None:
    events = [
        {"event": "idle", "after_s": 30.0, "left": {"chat running": 1}, "given_up": 0},
        {"event": "stopped", "processes": ["17 haproxy"], "shared_memory": {"psm_1": 1 << 24}},
    ]
    path = write_soak(tmp_path / "soak", events=events)
    rows = {row.name: row for row in judge(path, read(path))}
    assert failed(rows) == [
        "counts after the last client",
        "processes left behind",
        "left in /dev/shm",
    ]


def test_a_soak_that_was_cut_off_is_judged_by_what_it_has(tmp_path: Path) -> None:
    begun = {"event": "fault-begins", "name": "haproxy", "begin_s": 80_000.0}
    path = write_soak(tmp_path / "soak", events=[begun], faults=["haproxy"])
    with (path / "samples.jsonl").open("a") as file:
        file.write('{"at_s": 86')
    rows = {row.name: row for row in judge(path, read(path))}
    assert failed(rows) == []
    assert rows["counts after the last client"].verdict is Verdict.SKIPPED
    assert rows["fault haproxy: over"].verdict is Verdict.SHORT


def test_the_report_is_one_file_and_the_exit_status_says_whether_it_failed(tmp_path: Path) -> None:
    events = [a_fault("haproxy", 1000, 1006, 1006), *ENDED]
    path = write_soak(tmp_path / "soak", events=events, faults=["haproxy"])
    console = Console(record=True, width=160)
    assert report.finish(path, console) == 0
    page = (path / "soak.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "HAProxy is killed" in page
    assert "Everything passed." in console.export_text()
    with (path / "requests.jsonl").open("a") as file:
        file.write(json.dumps(lost(5000, 5001)) + "\n")
    assert report.finish(path, Console(quiet=True)) == 1
    assert '"verdict": "fail"' in (path / "soak.json").read_text()
