"""docs/configuration.md is what the settings say of themselves."""

from pathlib import Path

from serve_app.config.reference import render

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_written_from_the_settings_of_today() -> None:
    assert PAGE.read_text() == render()


def test_each_setting_has_one_row_with_a_description() -> None:
    rows = [line for line in render().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert cells[3] not in ("", "None"), row
