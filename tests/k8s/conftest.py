"""Each overlay is rendered once; a machine without kubectl skips, and says so."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.k8s.manifests import REPO, Manifests, kubectl, render


@pytest.fixture(scope="session")
def rendered() -> Callable[[str], Manifests]:
    """The manifests of an overlay by name; not to be changed."""
    try:
        kubectl()
    except LookupError as fault:
        pytest.skip(str(fault))
    return cache(render)


@pytest.fixture
def tree(tmp_path: Path, rendered: Callable[[str], Manifests]) -> Path:
    """A copy of what kustomize reads, to be changed; `render` takes it."""
    assert rendered
    shutil.copytree(REPO / "k8s", tmp_path / "k8s")
    shutil.copytree(REPO / "deploy", tmp_path / "deploy")
    return tmp_path
