"""Model runner V2 needs Triton. Its interpreter, which needs no GPU, is in an environment of its
own: `make test-runner-v2` makes it, and runs this folder there."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

INTERPRET_VARIABLE = "TRITON_INTERPRET"
REASON = "model runner V2 needs Triton's interpreter: `make test-runner-v2`"


class WithoutInterpreter(pytest.Module):
    """A file of this folder, where it cannot be imported."""

    def collect(self) -> NoReturn:
        pytest.skip(REASON)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    if os.environ.get(INTERPRET_VARIABLE) == "1" and _has_backend():
        return None
    return WithoutInterpreter.from_parent(parent, path=module_path)


def _has_backend() -> bool:
    return find_spec("triton") is not None and find_spec("triton.backends.cpu") is not None
