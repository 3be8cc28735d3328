"""Installs a lock with uv, for setup.sh: `python deploy/uv_install.py LOCK LOG TORCH_INDEX`.

The environment's own Python runs it, beside which uv is; it ends with uv's exit status. uv does not
read pip's configuration, so what pip is configured to find is handed to it. The progress shown is
uv's own: bars on a terminal, a line for each step and each large download elsewhere.
"""

import ast
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fcntl import ioctl
from pathlib import Path
from typing import BinaryIO

# pip's settings with uv's option for each of their values.
_OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraints",
    "trusted-host": "--allow-insecure-host",
    "cert": "--cert",
}
# pip's sections; a later one wins.
_SECTIONS = ("global", "install", ":env:")
_SETTING = re.compile(r"(global|install|:env:)\.([a-z-]+)=(.+)")
_COLOURS = re.compile(rb"\x1b(\[[0-9;]*(m|$)|$)")
# A terminal's bars return to the start of their line with \r, which ends none.
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
# How uv reports each package that changed, after all is done: hundreds of lines, for the log alone.
_CHANGES = (b" + ", b" - ", b" ~ ")


def main(lock: str, log: str, torch_index: str) -> int:
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", sys.executable]
    # The lock is complete, so nothing else is pulled in: that keeps the excluded packages out.
    uv += ["--no-deps", *options_of(pip_settings(_pip_config()))]
    with Path(log).open("ab", buffering=0) as kept:
        uv += _torch_options(uv, lock, torch_index, kept)
        # All cores compile here what each process would else compile for itself at its first start.
        status = _run_shown([*uv, "--compile-bytecode", "--requirements", lock], kept)
        if status != 0:
            return status
        package = [*uv, "--quiet", "--no-build-isolation", "--editable", "."]
        return subprocess.run(package, stdout=kept, stderr=kept, check=False).returncode


def pip_settings(listing: str) -> dict[str, str]:
    """What `pip config list` lists for installations, by the settings' names."""
    found = [match.groups() for line in listing.splitlines() if (match := _SETTING.match(line))]
    found.sort(key=lambda setting: _SECTIONS.index(setting[0]))
    return {name: str(ast.literal_eval(value)) for _, name, value in found}


def options_of(settings: Mapping[str, str]) -> list[str]:
    """uv's options for pip's settings. As pip does, uv then asks all indexes for each package, not
    only the first that has one of its name."""
    options = ["--index-strategy", "unsafe-best-match"]
    for name, option in _OPTIONS.items():
        for value in settings.get(name, "").split():
            options += [option, value]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    return options


def without_changes(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What uv writes, as it comes, but for the lines of packages that changed."""
    line, shown_bytes = b"", 0
    for part in (part for chunk in chunks for part in _LINES.findall(chunk)):
        line += part
        if not _may_be_change(line):
            yield line[shown_bytes:]
            shown_bytes = len(line)
        if line.endswith(b"\n"):
            line, shown_bytes = b"", 0


def _may_be_change(line: bytes) -> bool:
    text = _COLOURS.sub(b"", line)
    return any(text.startswith(change) or change.startswith(text) for change in _CHANGES)


def _pip_config() -> str:
    command = [sys.executable, "-m", "pip", "config", "list"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _torch_options(uv: Sequence[str], lock: str, torch_index: str, log: BinaryIO) -> list[str]:
    """torch's CPU build is on no package index but PyTorch's own, unless pip is configured to find
    it."""
    builds = re.findall(r"^torch==\S+\+cpu$", Path(lock).read_text(), re.MULTILINE)
    if not builds:
        return []
    probe = [*uv, "--dry-run", "--quiet", *builds]
    if subprocess.run(probe, stdout=log, stderr=log, check=False).returncode == 0:
        return []
    print(f"setup: {builds[0]} comes from {torch_index}", flush=True)
    return ["--find-links", f"{torch_index}/torch/"]


def _run_shown(command: Sequence[str], log: BinaryIO) -> int:
    """Run it with its progress on our standard output; all of it is in the log too."""
    is_terminal = sys.stdout.isatty()
    progress, written = pty.openpty() if is_terminal else os.pipe()
    if is_terminal:
        columns, rows = shutil.get_terminal_size()
        ioctl(written, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=written) as process:
        os.close(written)
        for shown in without_changes(_copied(progress, log)):
            sys.stdout.buffer.write(shown)
            sys.stdout.buffer.flush()
    os.close(progress)
    return process.returncode


def _copied(file: int, log: BinaryIO) -> Iterator[bytes]:
    while chunk := _read(file):
        log.write(chunk)
        yield chunk


def _read(file: int) -> bytes:
    try:
        return os.read(file, 65536)
    except OSError:  # how a pseudo-terminal ends
        return b""


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
