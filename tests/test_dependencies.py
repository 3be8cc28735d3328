"""Each package that is imported is declared in pyproject.toml, whose ranges each lock is in."""

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# What serve_app has at runtime; the other folders run in a checkout, with all extras.
RUNTIME = ("gpu", "cpu", "engine", "embedded", "completion", "tracing")
LOCKS = {"gpu": "requirements-gpu.txt", "cpu": "requirements-cpu.txt"}


def requirements(extras: Iterable[str]) -> Iterator[Requirement]:
    """The base ones and those of the extras, without references to other extras."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    found = map(Requirement, texts)
    return (each for each in found if canonicalize_name(each.name) != PROJECT["name"])


@cache
def imported(folder: str) -> dict[str, str]:
    """Top-level modules outside of the standard library and this repository, with one file each."""
    own = {"serve_app", "loadtest", "deploy", "tests"}
    found: dict[str, str] = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for module in {name.split(".")[0] for name in names} - own - sys.stdlib_module_names:
                found.setdefault(module, str(file.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("serve_app", RUNTIME), ("loadtest", (*EXTRAS,)), ("deploy", (*EXTRAS,))],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_every_package_that_is_imported_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    declared = {canonicalize_name(each.name) for each in requirements(extras)}
    packages = importlib.metadata.packages_distributions()
    undeclared = {
        module: file
        for module, file in imported(folder).items()
        if not {canonicalize_name(name) for name in packages.get(module, [module])} & declared
    }
    assert undeclared == {}


@pytest.mark.parametrize("kind", LOCKS)
def test_each_lock_is_within_the_declared_ranges(kind: str) -> None:
    locked = {
        canonicalize_name(each.name): next(iter(each.specifier)).version
        for each in map(Requirement, (ROOT / "deploy" / LOCKS[kind]).read_text().splitlines())
    }
    beyond = {
        each.name: locked.get(canonicalize_name(each.name))
        for each in requirements((kind, "engine", "embedded"))
        if not each.specifier.contains(locked.get(canonicalize_name(each.name), "0"))
    }
    assert beyond == {}
