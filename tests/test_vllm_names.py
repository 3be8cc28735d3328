"""Each name of vLLM that is imported, patched or relied on is in the vLLM that is served with.

Read in the source files, without an import: of what is installed here, in each `make check`, and of
the wheel in the GPU lock, where `python -m tests.vllm_sources` has fetched it, in `make test`.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.engine.vllm.patches.registry import PATCHES
from tests.vllm_sources import ROOT, Sources, cached_sources, installed_package, locked_version

IMPORTING = sorted(
    file
    for folder in ("serve_app", "loadtest")
    for file in (ROOT / folder).rglob("*.py")
    if "vllm" in file.read_text()
)
# Taken of objects that no type checker follows here.
UNTYPED = frozenset(
    {
        "vllm.config.compilation:CompilationConfig.compilation_time",
        "vllm.v1.engine.async_llm:AsyncLLM.generate",
        "vllm.v1.engine.output_processor:RequestState.is_prefilling",
        "vllm.v1.worker.worker_base:WorkerBase.compilation_config",
    }
)
FETCH = "`python -m tests.vllm_sources` fetches its files, where a registry can be reached"


# Of the wheel in the lock only `make test` reads the sources.
@pytest.fixture(
    scope="module", params=["installed", pytest.param("GPU lock", marks=pytest.mark.slow)]
)
def sources(request: pytest.FixtureRequest) -> Sources:
    if request.param == "installed":
        package = installed_package()
        if package is None:
            pytest.skip("no vLLM is installed")
        return Sources(package)
    return Sources(_fetched_package())


def _fetched_package() -> Path:
    if not cached_sources().is_dir():
        pytest.skip(f"the wheel of vllm=={locked_version()} is not in .cache: {FETCH}")
    return cached_sources() / "vllm"


def names_in(file: Path) -> frozenset[str]:
    """`module` and `module:name` of what a file imports of vLLM, and `module:name.attribute` of
    what it takes of an imported name."""
    tree = ast.parse(file.read_text())
    bound: dict[str, str] = {}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if _is_vllms(alias.name)}
        elif isinstance(node, ast.ImportFrom) and _is_vllms(node.module or ""):
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}:{alias.name}"
    found |= set(bound.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            origin = bound.get(node.value.id)
            if origin is not None:
                found.add(f"{origin}.{node.attr}")
    return frozenset(found)


def _is_vllms(module: str) -> bool:
    return f"{module}.".startswith("vllm.")


def missing(sources: Sources, names: frozenset[str]) -> list[str]:
    return sorted(name for name in names if not _is_there(sources, name))


def _is_there(sources: Sources, name: str) -> bool:
    module, _, path = name.partition(":")
    first, _, attribute = path.partition(".")
    if attribute and sources.tree(f"{module}.{first}") is not None:
        return sources.has(f"{module}.{first}:{attribute}")
    # pydantic's methods of a model are no business of vLLM's.
    return attribute.startswith("model_") or sources.has(name)


def test_what_is_imported_is_there(sources: Sources) -> None:
    assert IMPORTING
    gone = {file.name: missing(sources, names_in(file)) for file in IMPORTING}
    assert {file: names for file, names in gone.items() if names} == {}


def test_what_a_patch_replaces_and_relies_on_is_there(sources: Sources) -> None:
    gone = {
        patch.name: missing(sources, frozenset((*patch.replaces, *patch.relies_on)))
        for patch in PATCHES
    }
    assert {patch: names for patch, names in gone.items() if names} == {}


def test_what_is_taken_of_untyped_objects_is_there(sources: Sources) -> None:
    assert missing(sources, UNTYPED) == []


def test_variables_that_are_set_are_read(sources: Sources) -> None:
    known = (sources.package / "envs.py").read_text()
    used = {
        name for file in IMPORTING for name in re.findall(r'"(VLLM_[A-Z_]+)"', file.read_text())
    }
    assert "VLLM_CPU_KVCACHE_SPACE" in used
    assert {name for name in used if f'"{name}"' not in known} == set()


def test_a_name_that_is_gone_is_missed(tmp_path: Path) -> None:
    """As 0.33 moved `vllm/entrypoints/launchers/cli_args.py`."""
    package = tmp_path / "vllm"
    (package / "engine").mkdir(parents=True)
    (package / "__init__.py").write_text("from .engine import Engine\n")
    (package / "engine" / "__init__.py").write_text(
        "class Base:\n    def start(self):\n        self.begun = 1\n"
        "class Engine(Base):\n    stop: int = 1\n"
    )
    here = {"vllm:Engine", "vllm.engine", "vllm:engine", "vllm:Engine.begun", "vllm:Engine.start"}
    gone = {"vllm.launchers", "vllm:Launcher", "vllm:Engine.pause", "vllm.engine:Launcher"}
    assert missing(Sources(package), frozenset(here | gone)) == sorted(gone)


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_types_of_vllms_objects_hold_for_the_gpu_lock(tmp_path: Path) -> None:
    """The type checker, with the wheel's files before those that are installed."""
    package = _fetched_package()
    project = {
        "include": [str(ROOT / "serve_app" / "engine")],
        "extraPaths": [str(package.parent), str(ROOT)],
        "venvPath": str(ROOT),
        "venv": ".venv",
        "pythonVersion": "3.11",
        "typeCheckingMode": "standard",
    }
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps(project))
    command = [Path(sys.executable).parent / "basedpyright", "-p", config, "--level", "error"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:]
