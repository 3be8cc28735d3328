"""The same requests, measured and simulated: what is compared, and when a bar is missed."""

import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from loadtest.calibration import validate
from loadtest.calibration.validate import Limits
from loadtest.calibration.validate_command import (
    all_table,
    keep_former,
    read_runs,
    table,
    words,
)
from loadtest.client.record import Outcome, Record
from loadtest.errors import UserError
from loadtest.simulation.profile import GpuProfile, known_profiles
from serve_app.core.tiers import Tier
from tests.loadtest.load.fake_openai import FakeOpenAI, Reply

T4 = known_profiles()["T4"]
LIMITS = Limits(slots=4, max_queued_requests=8, max_wait_s=10.0)


def figures(profile: GpuProfile) -> tuple[float, float, float, float]:
    """Base, sequence, prompt token, overhead in seconds."""
    names = ("base_ms", "per_sequence_ms", "per_prompt_token_ms", "overhead_ms")
    base_s, sequence_s, prompt_s, overhead_s = (
        getattr(profile, name).value / 1e3 for name in names
    )
    return base_s, sequence_s, prompt_s, overhead_s


def alone(number: int, sent_s: float, prompt: int, answer: int) -> Record:
    """As a T4 answers a request that is alone, but for the reading of its context."""
    base_s, sequence_s, prompt_s, overhead_s = figures(T4)
    first_s = sent_s + overhead_s + base_s + prompt * prompt_s
    record = Record(number, 0, "chat", sent_s, prompt - 30, answer)
    record.first_sent_s = record.sent_s = sent_s
    record.token_s = array("d", [first_s + (base_s + sequence_s) * n for n in range(answer)])
    record.ended_s, record.outcome = record.token_s[-1], Outcome.SERVED
    record.input_tokens, record.output_tokens = prompt, answer
    return record


RECORDS = [alone(number, 3.0 + 2.0 * number, 200, 20 + number) for number in range(8)]


def compared(records: list[Record]) -> Mapping[str, Any]:
    return validate.compare(0.3, 0.5, records, T4, LIMITS, Tier.CHAT)


def test_requests_that_were_alone_are_predicted() -> None:
    row = compared(RECORDS)
    assert all(abs(off) < 0.02 for off in row["off_by"].values())
    assert row["kept"] == {"output_tokens_per_s": True, "ttft_p50_s": True}
    assert row["requests"] == 8


def slow_records() -> list[Record]:
    slow = [alone(r.number, r.planned_s, r.input_tokens or 0, 20) for r in RECORDS]
    for record in slow:
        record.token_s = array("d", [at_s + 0.1 for at_s in record.token_s])
    return slow


def test_a_server_that_is_slower_than_its_profile_misses_the_bar() -> None:
    row = compared(slow_records())
    assert row["kept"]["output_tokens_per_s"]
    assert not row["kept"]["ttft_p50_s"]
    assert "missed: ttft_p50_s" in words(row)


def test_the_trace_is_what_was_sent_and_counted() -> None:
    trace = validate.trace_of(RECORDS, Tier.CHAT)
    first = trace.requests[0]
    assert (first.arrival_s, first.prompt_tokens, first.new_tokens) == (0.0, 200, 20)
    assert trace.requests[-1].arrival_s == pytest.approx(14.0)


def test_a_failed_request_ends_the_comparison() -> None:
    broken = alone(8, 30.0, 200, 20)
    broken.outcome, broken.reason = Outcome.ERROR, "broken_stream"
    with pytest.raises(UserError, match="broken_stream"):
        compared([*RECORDS, broken])


def test_the_most_is_a_full_gpus_time_a_request() -> None:
    base_s, sequence_s, prompt_s, _ = figures(T4)
    context_s = T4.per_context_ktoken_ms.value / 1e6 * (100 + 25)
    work_s = 50 * (base_s / 4 + sequence_s + context_s) + 100 * prompt_s
    assert validate.most_rps(T4, LIMITS, prompt=100, answer=50) == pytest.approx(1 / work_s)


async def test_what_a_template_adds_is_asked_for() -> None:
    async with FakeOpenAI() as server:
        # The fake counts nine tokens whatever it is sent.
        assert await validate.tokens_added(server.url, Tier.CHAT, None) == 9 - 64
        assert len(server.bodies) == 4
    async with FakeOpenAI(lambda body, number: Reply(usage=False)) as silent:
        assert await validate.tokens_added(silent.url, Tier.CHAT, None) == 0


def results(day: int, records: list[Record]) -> dict[str, Any]:
    meta = {
        "most_rps": 4.2,
        "slots": 4,
        "date": f"2026-11-{day}T10:20:30+00:00",
        "commit": "abc",
        "machine": {"cores": 2, "cpu": "AMD EPYC"},
        "profile": {"model": "smollm2"},
    }
    return {"meta": meta, "loads": [compared(records)]}


def test_the_table_has_each_load_and_what_it_was_on() -> None:
    lines = table(results(25, RECORDS)).splitlines()
    assert lines[2].startswith("| 30%, 0.50/s | output tokens/s |")
    assert lines[2].endswith("| 10% |")
    assert lines[-1].startswith("Shares are of 4.20 requests/s")


def test_every_comparison_stays_in_the_docs_with_what_it_missed(tmp_path: Path) -> None:
    last = tmp_path / "validation.json"
    for day, records in ((24, slow_records()), (25, RECORDS), (26, RECORDS)):
        keep_former(last)
        last.write_text(json.dumps(results(day, records)))
    text = all_table(read_runs(last))
    rows = [line for line in text.splitlines() if line.startswith("| 2026-")]
    assert [row[2:12] for row in rows] == ["2026-11-24", "2026-11-25", "2026-11-26"]
    assert [row.split(" | ")[-1] for row in rows] == ["missed |", "kept |", "kept |"]
    assert "2 of 3 loads keep both bars" in text


def test_a_comparison_with_calibration_in_between_says_so() -> None:
    between = results(26, RECORDS)
    between["meta"]["recalibrated_rounds"] = 2

    assert "commit abc, calibrated in between." in table(between)
    assert "| 2026-11-26 10:20, abc, calibrated in between |" in all_table([between])
    assert "in between" not in all_table([results(25, RECORDS)])
