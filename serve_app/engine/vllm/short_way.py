"""What vLLM's application does for each request or token and nobody needs here, taken out.

Classes and application are handed in, so that this file does not import vLLM.
"""

import gc
from collections.abc import Collection, Iterable
from typing import Any

# Tells in the debug log of fields that a schema does not have.
FIELD_LOG = "__log_extra_fields__"
# Python's own are 700, 10 and 10. A request makes thousands of objects that live until it ends, and
# almost none of them is in a cycle: 4 % of a request's time, measured on one process in turn.
GC_THRESHOLDS = (10_000, 20, 20)


def shorten_way(app: Any, generating: Collection[str]) -> None:
    """Take out of vLLM's application what the edge in front of it does already.

    Its HTTP metrics walk all routes twice a request and wrap every chunk; the edge counts and times
    each request, and knows its route, so the generating ones are looked at first.
    """
    from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware

    app.user_middleware = [
        middleware
        for middleware in app.user_middleware
        if middleware.cls is not PrometheusInstrumentatorMiddleware
    ]
    # build_app's SageMaker part has built the layers already; the next request builds them anew.
    app.middleware_stack = None
    app.router.routes.sort(key=lambda route: getattr(route, "path", None) not in generating)


def build_chunks_plainly(chunk_models: Iterable[type[Any]]) -> None:
    """Let the models of a stream's chunks be validated by pydantic alone, parts before wholes.

    vLLM wraps every model in a look for fields that a client has made up. It makes its chunks
    itself, three models for every token, so there is nothing to be found.
    """
    for model in chunk_models:
        model.__pydantic_decorators__.model_validators.pop(FIELD_LOG, None)
        model.model_rebuild(force=True)


def collect_garbage_rarely() -> None:
    """Look for cycles among new objects less often, in this process. vLLM keeps only what it made
    at its start out of the look."""
    gc.set_threshold(*GC_THRESHOLDS)
