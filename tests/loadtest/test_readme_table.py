"""The README's table comes from the results file, and stays where it belongs."""

import json
from pathlib import Path

import pytest

from loadtest.__main__ import write_readme
from loadtest.readme_table import MarkersMissing, between_markers, table
from tests.loadtest.builders import results

BEGIN, END = "<!-- overhead:begin -->", "<!-- overhead:end -->"


def test_systems_stand_together_by_number_of_streams() -> None:
    rows = [line.split(" | ")[:3] for line in table(results()).splitlines()[2:6]]

    assert rows == [
        ["| 1", "bare vLLM server", "100"],
        ["| 1", "tierserve", "99"],
        ["| 32", "bare vLLM server", "1,500"],
        ["| 32", "tierserve", "1,480"],
    ]


def test_a_row_names_its_units() -> None:
    row = table(results()).splitlines()[2]

    assert row == "| 1 | bare vLLM server | 100 | 20.0 ms | 25.0 ms | 8.3 ms | 1.23 |"


def test_the_caption_says_where_when_and_how_sure() -> None:
    caption = table(results()).splitlines()[-1]

    assert "0.99 (0.98 to 1.00)" in caption
    assert "2 cores of Example CPU, 2026-01-02, commit abcdef123456" in caption
    assert "make bench-overhead" in caption


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    readme, source = tmp_path / "README.md", tmp_path / "overhead.json"
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe rest.\n")
    source.write_text(json.dumps(results()))

    write_readme(source, readme)
    once = readme.read_text()
    write_readme(source, readme)

    assert once.startswith(f"# Title\n\n{BEGIN}\n| streams |")
    assert once.endswith(f"{END}\n\nThe rest.\n")
    assert "old" not in once
    assert readme.read_text() == once


@pytest.mark.parametrize("text", ["no markers", BEGIN, f"{END} {BEGIN}"])
def test_a_readme_without_both_markers_is_refused(text: str) -> None:
    with pytest.raises(MarkersMissing, match="overhead:begin"):
        between_markers(text, "overhead", "body")
