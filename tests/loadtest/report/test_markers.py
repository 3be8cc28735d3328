"""The README's table comes from the results file, and stays where it belongs."""

import json
from pathlib import Path

import pytest

from loadtest.__main__ import main, write_readme
from loadtest.readme_table import MarkersMissing, between_markers
from loadtest.results_file import REPOSITORY
from tests.loadtest.builders import results

BEGIN, END = "<!-- overhead:begin -->", "<!-- overhead:end -->"


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


def test_the_readme_has_the_tables_of_the_recorded_results(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    recorded = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    readme.write_text(recorded, encoding="utf-8")

    assert main(["readme", "--readme", str(readme)]) == 0

    assert readme.read_text(encoding="utf-8") == recorded


@pytest.mark.parametrize("text", ["no markers", BEGIN, f"{END} {BEGIN}"])
def test_a_readme_without_both_markers_is_refused(text: str) -> None:
    with pytest.raises(MarkersMissing, match="overhead:begin"):
        between_markers(text, "overhead", "body")
