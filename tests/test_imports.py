"""What import-linter cannot say: core imports nothing outside the standard library."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "serve_app" / "core"


def imported_names(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("file", sorted(CORE.glob("**/*.py")), ids=lambda file: file.name)
def test_core_imports_the_standard_library_only(file: Path) -> None:
    foreign = {
        name
        for name in imported_names(file.read_text())
        if name.split(".")[0] not in sys.stdlib_module_names
        and not name.startswith("serve_app.core")
    }
    assert not foreign
