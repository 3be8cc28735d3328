"""The real packages of the clients, each set in an environment of its own below .cache/clients:
their requirements do not agree with each other, and none belongs into the project's lock."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache/clients"

# Tried together on the date that docs/clients.md has; newer ones are for whoever tries them.
PINS: Mapping[str, tuple[str, ...]] = {
    "openai-python": ("openai==3.57.0",),
    "openai-node": ("openai@7.57.0", "playwright-core@1.65.1"),
    "anthropic": ("anthropic==2.14.0",),
    "langchain": ("langchain-openai==1.7.4", "langchain-deepseek==1.1.1"),
    # The newest one whose extra `proxy` installs: later ones want packages that were not to be had.
    "litellm": ("litellm[proxy]==1.106.12",),
    "open-webui": ("open-webui==0.12.4",),
}
NODE = ("openai-node",)


@dataclass(frozen=True, slots=True)
class Environment:
    """A folder with a client's packages."""

    name: str

    @property
    def folder(self) -> Path:
        return CACHE / self.name

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)

    def command(self, script: Path) -> list[str]:
        """What runs a script with these packages."""
        if self.name in NODE:
            return ["node", str(script)]
        return [self.program("python"), str(script)]

    @property
    def suffix(self) -> str:
        return ".mjs" if self.name in NODE else ".py"


class Missing(Exception):
    """What a client needs cannot be had here."""


def prepare(name: str) -> Environment:
    """Install a client's packages, unless the pinned ones are there. Raises Missing."""
    environment = Environment(name)
    stamp = environment.folder / "pins.json"
    wanted = json.dumps(PINS[name])
    if stamp.exists() and stamp.read_text() == wanted:
        return environment
    shutil.rmtree(environment.folder, ignore_errors=True)
    environment.folder.mkdir(parents=True)
    if name in NODE:
        if shutil.which("npm") is None:
            raise Missing("no npm on this machine")
        (environment.folder / "package.json").write_text('{"private": true}')
        _run(["npm", "install", "--silent", *PINS[name]], environment.folder)
    else:
        _run([sys.executable, "-m", "venv", str(environment.folder)], CACHE)
        if name == "open-webui":
            _install(environment, [_torch()])
        _install(environment, PINS[name])
    stamp.write_text(wanted)
    return environment


def _torch() -> str:
    """torch as the lock has it: left to itself, pip takes a build for GPUs of several GB."""
    lock = (REPOSITORY / "deploy/requirements-cpu.txt").read_text()
    found = re.search(r"^torch==.*$", lock, re.MULTILINE)
    assert found is not None, "the CPU's lock has no torch"
    return found[0]


def _install(environment: Environment, packages: Sequence[str]) -> None:
    pip = [environment.program("python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "install", *packages], CACHE)


def _run(command: Sequence[str], folder: Path) -> None:
    with tempfile.TemporaryFile("w+") as said:
        ended = subprocess.run(command, cwd=folder, stdout=said, stderr=said, check=False)
        said.seek(0)
        if ended.returncode:
            raise Missing(said.read().strip()[-400:])
