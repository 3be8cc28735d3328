"""Tables that commands write come from the results files, and stay where they belong."""

import json
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.errors import UserError
from loadtest.report.pages import between_markers, page_of
from loadtest.report.results_file import RESULTS, read
from loadtest.studies.overhead.readme import STEMS
from loadtest.studies.overhead.results import table
from tests.loadtest.builders import results

BEGIN, END = "<!-- overhead:begin -->", "<!-- overhead:end -->"


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    readme, source = tmp_path / "README.md", tmp_path / "overhead.json"
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe rest.\n")
    source.write_text(json.dumps(results()))
    words = ["readme", "--results", str(source), "--readme", str(readme)]

    assert main(words) == 0
    once = readme.read_text()
    assert main(words) == 0

    assert once.startswith(f"# Title\n\n{BEGIN}\n| streams |")
    assert once.endswith(f"{END}\n\nThe rest.\n")
    assert "old" not in once
    assert readme.read_text() == once


@pytest.mark.parametrize("stem", STEMS)
def test_the_docs_have_the_tables_of_the_recorded_results(stem: str) -> None:
    text = page_of(stem).read_text(encoding="utf-8")

    assert between_markers(text, stem, table(read(RESULTS / f"{stem}.json"))) == text


@pytest.mark.parametrize("text", ["no markers", BEGIN, f"{END} {BEGIN}"])
def test_a_page_without_both_markers_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="overhead:begin"):
        between_markers(text, "overhead", "body")


def test_a_section_without_a_page_is_refused() -> None:
    with pytest.raises(UserError, match="has the markers of 'nowhere'"):
        page_of("nowhere")
