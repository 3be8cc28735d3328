"""Serve's own log file survives our logging configuration and vLLM's.

`logging.config.dictConfig` closes every handler of the process. A new controller asks each running
replica for the name of its log file and replaces the replica where that fails: with its handler
closed, no replica would outlive a controller.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.serving.ray_internals import serve_log_targets


@contextmanager
def kept_serve_logs() -> Iterator[None]:
    """Give Serve's handlers back what a `dictConfig` inside this block takes from them."""
    handlers = serve_log_targets()
    try:
        yield
    finally:
        for handler, target in handlers:
            handler.setTarget(target)
