"""How the end of vLLM's engine is told."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from serve_app.engine.vllm.engine import VllmEngine


async def test_a_dead_engine_is_told_without_vllms_own_error() -> None:
    """Who reads the error in another process has to import what it is of."""
    fields = dict.fromkeys(VllmEngine.__dataclass_fields__, cast("Any", None))
    engine = VllmEngine(**{**fields, "_client": SimpleNamespace(errored=False)})
    await engine.check()
    engine = VllmEngine(**{**fields, "_client": SimpleNamespace(errored=True)})
    with pytest.raises(RuntimeError, match="dead") as raised:
        await engine.check()
    assert type(raised.value) is RuntimeError
