"""Traces: columns, tiers, clipping, and what is said of a file that is none."""

import gzip
from pathlib import Path

import pytest

from loadtest.errors import UserError
from loadtest.simulation.trace import merged, read_trace, tier_of_file
from serve_app.core.tiers import Tier

HEADER = "arrival_s,input_tokens,output_tokens"


def a_file(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_lengths_are_clipped_at_the_tiers_limit_and_counted(tmp_path: Path) -> None:
    path = a_file(tmp_path, f"{HEADER}\n2,9000,5000\n1,10,20\n")
    trace = read_trace(path, tier=Tier.CHAT)
    assert [(r.arrival_s, r.prompt_tokens, r.new_tokens) for r in trace.requests] == [
        (1, 10, 20),
        (2, 3072, 1024),
    ]
    assert trace.clipped == 1
    assert trace.tiers == (Tier.CHAT,)


def test_a_column_names_the_tiers_and_a_rate_presses_the_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(f"{HEADER},tier\n4,10,20,reasoning\n8,10,20,chat\n")
    trace = read_trace(path, tier=None, rate=2)
    assert [(r.arrival_s, r.tier) for r in trace.requests] == [
        (2, Tier.REASONING),
        (4, Tier.CHAT),
    ]


@pytest.mark.parametrize(
    ("columns", "tier"),
    [
        (HEADER, Tier.CHAT),
        (f"{HEADER},reasoning_tokens", Tier.REASONING),
        (f"{HEADER},tier", None),
    ],
)
def test_whose_requests_a_file_has(tmp_path: Path, columns: str, tier: Tier | None) -> None:
    assert tier_of_file(a_file(tmp_path, f"{columns}\n1,2,3,4\n")) is tier


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "does not have the columns arrival_s, input_tokens, output_tokens"),
        (f"{HEADER}\n", "has no requests"),
        (f"{HEADER}\n1,x,3\n", "line 2"),
        (f"{HEADER}\n,2,3\n", "line 2: arrival_s is ''"),
        (f"{HEADER}\n1,-2,3\n", "line 2: a negative number"),
        (f"{HEADER},tier\n1,2,3,gold\n", "line 2"),
    ],
)
def test_a_file_that_is_no_trace_says_why(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_trace(a_file(tmp_path, text), tier=Tier.CHAT)
    assert said in str(error.value)


def test_without_a_column_someone_must_say_whose_they_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--tier"):
        read_trace(a_file(tmp_path, f"{HEADER}\n1,2,3\n"), tier=None)


def test_merged_traces_end_with_the_shorter_one(tmp_path: Path) -> None:
    chat = read_trace(a_file(tmp_path, f"{HEADER}\n1,2,3\n9,2,3\n", "c.csv"), tier=Tier.CHAT)
    thinks = read_trace(a_file(tmp_path, f"{HEADER}\n2,2,3\n5,2,3\n", "r.csv"), tier=Tier.REASONING)
    assert [r.arrival_s for r in merged([chat, thinks]).requests] == [1, 2, 5]
