"""A logging configuration leaves Serve's handler with its file."""

import logging
import logging.config
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path

import pytest

from serve_app.serving.serve_logs import kept_serve_logs


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[MemoryHandler]:
    """As Serve sets it up in each replica."""
    file = logging.FileHandler(tmp_path / "replica.log")
    buffer = MemoryHandler(capacity=1, target=file)
    logger = logging.getLogger("ray.serve")
    logger.addHandler(buffer)
    yield buffer
    logger.removeHandler(buffer)
    buffer.close()
    file.close()


def test_serve_writes_on_after_a_new_logging_configuration(handler: MemoryHandler) -> None:
    file = handler.target
    assert isinstance(file, logging.FileHandler)
    with kept_serve_logs():
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
        assert handler.target is None
    assert handler.target is file
    logging.getLogger("ray.serve").warning("still here")
    assert "still here" in Path(file.baseFilename).read_text()
