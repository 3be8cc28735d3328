"""The doctor reads the embedded model, whose conversion takes as long as a hundred of its tests."""

import pytest

from serve_app.engine.models.model_dir import default_cache_dir


@pytest.fixture(autouse=True)
def _the_model_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that move HOME still find it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(default_cache_dir().parent))
