"""What is generated is fresh, and is what Grafana's own model of a dashboard knows."""

import json
from pathlib import Path

import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.monitoring.board import Board
from deploy.monitoring.boards import all_boards
from deploy.monitoring.generated import DASHBOARDS, contents
from deploy.monitoring.grafana import to_json

COLUMNS = 24


@pytest.mark.parametrize(("path", "text"), contents().items(), ids=lambda each: Path(each).name)
def test_the_file_is_as_its_source_says(path: Path, text: str) -> None:
    assert path.read_text() == text, "run `python -m deploy.monitoring write`"


def test_there_is_no_dashboard_without_a_source() -> None:
    assert {file.stem for file in DASHBOARDS.iterdir()} == {board.uid for board in all_boards()}


@pytest.mark.parametrize("board", all_boards(), ids=lambda board: board.uid)
def test_grafanas_model_reads_the_dashboard_and_loses_nothing(board: Board) -> None:
    text = (DASHBOARDS / f"{board.uid}.json").read_text()
    assert to_json(Dashboard.from_json(json.loads(text))) == text


@pytest.mark.parametrize("board", all_boards(), ids=lambda board: board.uid)
def test_panels_have_a_description_and_fill_their_rows(board: Board) -> None:
    for row in board.rows:
        assert all(panel.description and panel.queries for panel in row.panels)
        assert sum(panel.width for panel in row.panels) % COLUMNS == 0, row.title
