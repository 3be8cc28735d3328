"""The dashboards: what each panel shows and how to read it. `dashboards/*.json` is made of this."""

from deploy.monitoring.board import Board
from deploy.monitoring.boards.engine import engine_board
from deploy.monitoring.boards.scaling import scaling_board
from deploy.monitoring.boards.service import service_board
from deploy.monitoring.boards.usage import usage_board


def all_boards() -> tuple[Board, ...]:
    """Every dashboard that is provisioned."""
    return (service_board(), scaling_board(), engine_board(), usage_board())
