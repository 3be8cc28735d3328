"""The tables of README and docs/overhead.md come from results files, and stay where they belong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.__main__ import main, write_summary, write_table
from loadtest.readme_table import MarkersMissing, between_markers
from loadtest.results_file import REPOSITORY
from tests.loadtest.builders import results

BEGIN, END = "<!-- overhead:begin -->", "<!-- overhead:end -->"


@pytest.mark.parametrize(
    ("write", "markers"), [(write_table, "overhead"), (write_summary, "overhead-summary")]
)
def test_only_what_is_between_the_markers_changes(
    tmp_path: Path, write: Callable[[Path, Path], None], markers: str
) -> None:
    page, source = tmp_path / "page.md", tmp_path / "overhead.json"
    begin, end = f"<!-- {markers}:begin -->", f"<!-- {markers}:end -->"
    page.write_text(f"# Title\n\n{begin}\nold\n{end}\n\nThe rest.\n")
    source.write_text(json.dumps(results()))

    write(source, page)
    once = page.read_text()
    write(source, page)

    assert once.startswith(f"# Title\n\n{begin}\n| streams |")
    assert once.endswith(f"{end}\n\nThe rest.\n")
    assert "old" not in once
    assert page.read_text() == once


def test_both_pages_have_the_tables_of_the_recorded_results(tmp_path: Path) -> None:
    readme, page = tmp_path / "README.md", tmp_path / "overhead.md"
    recorded = [
        (REPOSITORY / name).read_text(encoding="utf-8")
        for name in ("README.md", "docs/overhead.md")
    ]
    for copy, text in zip((readme, page), recorded, strict=True):
        copy.write_text(text, encoding="utf-8")

    assert main(["readme", "--readme", str(readme), "--page", str(page)]) == 0

    assert [copy.read_text(encoding="utf-8") for copy in (readme, page)] == recorded


@pytest.mark.parametrize("text", ["no markers", BEGIN, f"{END} {BEGIN}"])
def test_a_readme_without_both_markers_is_refused(text: str) -> None:
    with pytest.raises(MarkersMissing, match="overhead:begin"):
        between_markers(text, "overhead", "body")
