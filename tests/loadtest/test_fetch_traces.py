"""Public traces, as they are published, become files that the simulator reads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.simulation.trace import read_trace
from loadtest.traces.fetch import SOURCES, MeasurementError, part
from serve_app.core.tiers import Tier

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 19:30:00.0000000,110,27
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.109930+00:00,2399,6
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,Conversation log
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46]}
{"timestamp": 30535, "input_length": 100, "output_length": 9, "hash_ids": []}
"""
BAILIAN = """{"chat_id": 1, "timestamp": 61.114, "input_length": 521, "output_length": 132}
{"chat_id": 2, "timestamp": 61.0, "input_length": 5, "output_length": 7}
"""


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("azure2023-code", AZURE, [(0.0, 4808, 10), (0.052, 3180, 8)]),
        ("azure2024-conv", AZURE_2024, [(0.0, 2162, 5), (0.1, 2399, 6)]),
        ("burstgpt", BURSTGPT, [(0.0, 472, 18), (113.0, 417, 276)]),
        ("mooncake-conversation", MOONCAKE, [(0.0, 6955, 52), (3.053, 100, 9)]),
        ("bailian-chat", BAILIAN, [(0.0, 521, 132)]),
    ],
)
def test_each_format_is_read(name: str, text: str, rows: list[tuple[float, int, int]]) -> None:
    found = part(SOURCES[name].read(text.splitlines()), from_s=0.0, seconds=3600.0)
    assert [(pytest.approx(at_s, abs=1e-3), p, a) for at_s, p, a in rows] == found


def test_a_part_begins_at_its_own_beginning_and_ends_reading_soon() -> None:
    read: list[float] = []

    def recording() -> Iterator[tuple[float, int, int]]:
        for at_s in range(1000, 9000, 10):
            read.append(at_s)
            yield float(at_s), 1, 1

    rows = part(recording(), from_s=100.0, seconds=50.0)
    assert [at_s for at_s, _, _ in rows] == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    assert read[-1] < 1300
    with pytest.raises(MeasurementError, match="no request"):
        part([(0.0, 1, 1)], from_s=10.0, seconds=5.0)


def test_a_file_that_is_there_already_is_converted_with_its_source(tmp_path: Path) -> None:
    raw, to = tmp_path / "raw.jsonl", tmp_path / "out"
    raw.write_text(BAILIAN, encoding="utf-8")
    words = ["fetch-traces", "bailian-thinking", "--file", str(raw), "--to", str(to)]
    assert main(words) == 0
    first = (to / "bailian-thinking.csv.gz").read_bytes()
    assert main(words) == 0
    assert (to / "bailian-thinking.csv.gz").read_bytes() == first
    trace = read_trace(to / "bailian-thinking.csv.gz", tier=None)
    assert [(r.tier, r.prompt_tokens, r.new_tokens) for r in trace.requests] == [
        (Tier.REASONING, 521, 132)
    ]
    page = (to / "SOURCES.md").read_text(encoding="utf-8")
    assert page.count("bailian-thinking.csv.gz") == 1
    assert "Apache-2.0" in page


def test_a_file_of_another_kind_is_named_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(BURSTGPT, encoding="utf-8")
    words = ["fetch-traces", "azure2023-code", "--file", str(raw), "--to", str(tmp_path)]
    assert main(words) == 1
    assert "TIMESTAMP" in capsys.readouterr().out


def test_every_source_names_its_licence_and_is_pinned() -> None:
    for source in SOURCES.values():
        assert source.licence in ("CC-BY-4.0", "Apache-2.0")
        assert source.url.startswith("https://")
        assert source.commit
        assert source.cite
