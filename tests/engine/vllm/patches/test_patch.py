"""A patch is installed once, in the versions that it is for, and is reported either way."""

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from serve_app.engine.vllm.patches.patch import Patch, PatchError, outcomes_in, replace
from serve_app.engine.vllm.patches.registry import PATCHES, active


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of that name with one function, in place of the real one."""
    module: Any = ModuleType("vllm")
    module.__version__ = "0.32.0+cpu"
    module.answer = lambda: 1
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def a_patch(vllm: Any, **fields: Any) -> Patch:
    """It adds one to the function's answer."""

    def apply() -> None:
        replace(vllm, "answer", lambda answer: lambda: answer() + 1)

    known: dict[str, Any] = {
        "name": "one_more",
        "versions": ">=0.32,<0.33",
        "upstream": "vllm.py, answer",
        "remove_when": "it is 2",
        "replaces": ("vllm:answer",),
        "apply": apply,
    }
    return Patch(**{**known, **fields})


def test_a_patch_is_installed_once_and_logged_once(
    vllm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    patch = a_patch(vllm)
    with caplog.at_level(logging.INFO):
        assert patch.install()
        assert patch.install()
    assert vllm.answer() == 2
    assert outcomes_in(vllm) == {"one_more": True}
    assert [record.getMessage() for record in caplog.records] == ["vLLM patch installed"]


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.33.0rc1", "1.0"])
def test_a_vllm_of_another_version_is_left_as_it_is(
    vllm: Any, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    vllm.__version__ = version
    patch = a_patch(vllm)
    assert not patch.install()
    assert not patch.install()
    assert vllm.answer() == 1
    assert outcomes_in(vllm) == {"one_more": False}
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["patch"]) == ("WARNING", "one_more")
    assert record.__dict__["reason"] == "it is for vLLM >=0.32,<0.33"


def test_a_name_that_is_gone_is_found_before_anything_is_changed(
    vllm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert not a_patch(vllm, replaces=("vllm:answer", "vllm:Gone.method")).install()
    assert vllm.answer() == 1
    assert "Gone" in caplog.records[0].__dict__["reason"]


@pytest.mark.parametrize("error", [PatchError("other"), ImportError("no"), TypeError("not so")])
def test_what_cannot_be_patched_fails_no_start(vllm: Any, error: Exception) -> None:
    def apply() -> None:
        raise error

    assert not a_patch(vllm, apply=apply).install()
    assert outcomes_in(vllm) == {"one_more": False}


def test_a_class_is_replaced_once_though_it_inherits() -> None:
    class Base: ...

    owner = SimpleNamespace(part=Base)
    for _ in range(2):
        replace(owner, "part", lambda base: type("Patched", (base,), {}))
    assert owner.part.__mro__[1] is Base


def test_a_patch_is_active_where_it_is_installed_in_both_processes(vllm: Any) -> None:
    outcomes_in(vllm).update(stop_strings=True, thinking_budget=True, fast_routes=True)
    everywhere = {"stop_strings": True, "thinking_budget": False}
    assert active(everywhere) == {
        "stop_strings": True,
        "thinking_budget": False,
        "fast_routes": True,
    }
    assert active({})["stop_strings"] is False
    assert active(None)["stop_strings"] is True


def test_every_patch_says_where_it_comes_from_and_when_it_goes() -> None:
    assert len({patch.name for patch in PATCHES}) == len(PATCHES)
    for patch in PATCHES:
        assert patch.name.isidentifier()
        assert patch.upstream.startswith(("https://", "vllm/"))
        assert patch.remove_when
