"""vLLM's source files, those installed or those of the GPU lock's wheel, and the names in them.

`python -m tests.vllm_sources` fetches the Python files of the locked GPU wheel, which has 300 MB
and is not installed here, into `.cache/`: 20 MB of it are read, in some ten seconds. It needs a
registry that pip finds and whose files can be read by ranges, as PyPI's.
"""

import ast
import importlib.util
import io
import json
import re
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GPU_LOCK = ROOT / "deploy" / "requirements-gpu.txt"
REQUEST_LIMIT_S = 60.0
BLOCK_BYTES = 1 << 20


def locked_version() -> str:
    """vLLM's in the GPU lock."""
    found = re.search(r"^vllm==(\S+)$", GPU_LOCK.read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def cached_sources() -> Path:
    """The folder that holds the locked wheel's `vllm` package, once it is fetched."""
    return ROOT / ".cache" / f"vllm-{locked_version()}"


def installed_package() -> Path | None:
    """vLLM's folder in this environment, without importing it."""
    found = importlib.util.find_spec("vllm")
    return None if found is None or found.origin is None else Path(found.origin).parent


@dataclass(slots=True)
class Sources:
    """Finds names by reading files below `package`, without importing any."""

    package: Path
    _trees: dict[str, ast.Module | None] = field(default_factory=dict[str, ast.Module | None])

    def has(self, name: str) -> bool:
        """Whether `module:Class.attribute`, or a module alone, is there."""
        module, _, path = name.partition(":")
        if not path:
            return self.tree(module) is not None
        first, *rest = path.split(".")
        if not rest:
            if self.tree(f"{module}.{first}") is not None:
                return True
            return self._defining(module, first) is not None
        return self._has_attribute(module, first, rest[0], set())

    def tree(self, module: str) -> ast.Module | None:
        if module not in self._trees and not f"{module}.".startswith("vllm."):
            self._trees[module] = None
        if module not in self._trees:
            place = self.package.joinpath(*module.split(".")[1:])
            files = (place.with_suffix(".py"), place / "__init__.py")
            file = next((each for each in files if each.is_file()), None)
            self._trees[module] = None if file is None else ast.parse(file.read_text())
        return self._trees[module]

    def _defining(self, module: str, name: str) -> tuple[str, ast.stmt] | None:
        """Module and statement that define a name of `module`, through imports of vLLM's own."""
        tree = self.tree(module)
        for node in () if tree is None else _statements(tree.body):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        origin = self._absolute(module, node)
                        return self._defining(origin, alias.name) or (module, node)
            elif name in _bound_by(node):
                return module, node
        return None

    def _has_attribute(self, module: str, name: str, attribute: str, seen: set[str]) -> bool:
        found = self._defining(module, name)
        if found is None or f"{found[0]}:{name}" in seen:
            return False
        module, node = found
        if not isinstance(node, ast.ClassDef):
            return False
        seen.add(f"{module}:{name}")
        if attribute in _attributes_of(node):
            return True
        bases = (base.value if isinstance(base, ast.Subscript) else base for base in node.bases)
        return any(
            self._has_attribute(module, base.id, attribute, seen)
            for base in bases
            if isinstance(base, ast.Name)
        )

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = (self.package.joinpath(*module.split(".")[1:]) / "__init__.py").is_file()
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module, in its conditions and its `try` blocks too."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handled = [each for handler in node.handlers for each in handler.body]
            yield from _statements([*node.body, *handled, *node.orelse])


def _bound_by(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        targets = node.targets if isinstance(node, ast.Assign) else []
    bound = (each for target in targets for each in ast.walk(target))
    return {each.id for each in bound if isinstance(each, ast.Name)}


def _attributes_of(node: ast.ClassDef) -> set[str]:
    """What stands in the class, and what its methods set of `self`."""
    found = {name for each in _statements(node.body) for name in _bound_by(each)}
    set_by_methods = (
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    )
    return found | set(set_by_methods)


class RemoteFile(io.RawIOBase):
    """A file behind a URL, read by blocks, of which the last one is kept."""

    def __init__(self, url: str) -> None:
        self._url, self._at = url, 0
        with self._open({}, "HEAD") as reply:
            self.bytes = int(reply.headers["content-length"])
        self._block, self._content = -1, b""
        self.read_bytes = 0

    def _open(self, headers: dict[str, str], method: str = "GET") -> Any:
        request = urllib.request.Request(self._url, headers=headers, method=method)
        return urllib.request.urlopen(request, timeout=REQUEST_LIMIT_S)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.bytes}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self.bytes if size < 0 else min(self.bytes, self._at + size)
        parts: list[bytes] = []
        while self._at < end:
            block, offset = divmod(self._at, BLOCK_BYTES)
            part = self._block_of(block)[offset : offset + end - self._at]
            parts.append(part)
            self._at += len(part)
        return b"".join(parts)

    def _block_of(self, block: int) -> bytes:
        if block != self._block:
            begin = block * BLOCK_BYTES
            last = min(self.bytes, begin + BLOCK_BYTES) - 1
            with self._open({"range": f"bytes={begin}-{last}"}) as reply:
                self._content = reply.read()
            if len(self._content) != last - begin + 1:
                raise OSError(f"{self._url} cannot be read by ranges")
            self._block = block
            self.read_bytes += len(self._content)
        return self._content


def wheel_url(version: str) -> str:
    """Where pip, as it is configured here, would take vLLM's wheel for Linux from."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet"),
            *("--ignore-installed", "--report", "-", "--target", "none", "--only-binary=:all:"),
            *("--platform", "manylinux_2_28_x86_64", f"vllm=={version}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)["install"][0]["download_info"]["url"]


def fetch() -> None:
    """The locked wheel's Python files, into the cache."""
    target = cached_sources()
    partly = target.with_name(f"{target.name}-partly")
    remote = RemoteFile(wheel_url(locked_version()))
    with zipfile.ZipFile(remote) as wheel:
        members = [each for each in wheel.infolist() if re.match(r"vllm/.*\.pyi?$", each.filename)]
        for member in sorted(members, key=lambda each: each.header_offset):
            wheel.extract(member, partly)
    partly.rename(target)
    read = f"{remote.read_bytes >> 20} of {remote.bytes >> 20} MiB"
    sys.stdout.write(f"{len(members)} files, {read}: {target}\n")


if __name__ == "__main__":
    fetch()
