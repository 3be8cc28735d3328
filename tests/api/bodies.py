"""A body of each generating route, and how a tier's rules refuse one."""

from typing import Any

import pytest

from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, GENERATING, MESSAGES, RESPONSES
from serve_app.errors import RequestError
from tests.builders import a_prepared

BODY_OF: dict[str, dict[str, Any]] = {
    CHAT_COMPLETIONS.name: {"messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS.name: {"prompt": "hi"},
    RESPONSES.name: {"input": "hi"},
    MESSAGES.name: {"messages": [{"role": "user", "content": "hi"}]},
}
ENDPOINTS = pytest.mark.parametrize("endpoint", GENERATING.values(), ids=lambda e: e.name)


def refusal(payload: dict[str, Any] | None = None, **options: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        a_prepared(payload, **options)
    assert caught.value.status == 400
    return caught.value
