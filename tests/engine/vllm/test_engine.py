"""How the end of vLLM's engine is told."""

from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.engine.vllm.engine import VllmEngine


def engine(*, errored: bool) -> VllmEngine:
    fields: dict[str, Any] = dict.fromkeys(VllmEngine.__dataclass_fields__)
    fields["_client"] = SimpleNamespace(errored=errored)
    return VllmEngine(**fields)


async def test_a_dead_engine_is_reported_without_vllms_own_error() -> None:
    """Who reads the error in another process has to import what it is of."""
    await engine(errored=False).check()
    with pytest.raises(RuntimeError, match="dead") as raised:
        await engine(errored=True).check()
    assert type(raised.value) is RuntimeError
