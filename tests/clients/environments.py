"""The real packages of the clients, each set in an environment of its own below .cache/clients:
their requirements do not agree with each other, and none belongs into the project's lock. What a
client requires itself is fixed by a date: nothing that was uploaded later is taken."""

import json
import os
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
INSTALLED_WITHIN_S = 1800
# Both of PyPI and npm: whoever installs the pins again gets the requirements that were tried.
UPLOADED_BEFORE = "2026-11-28"

# Tried together on the date that docs/clients.md has; newer ones are for whoever tries them.
PINS: Mapping[str, tuple[str, ...]] = {
    "openai-python": ("openai==3.57.0",),
    "openai-node": ("openai@7.57.0", "playwright-core@1.65.1"),
    "anthropic": ("anthropic==2.14.0",),
    "langchain": ("langchain-openai==1.7.4", "langchain-deepseek==1.1.1"),
    # The newest one whose extra `proxy` installs: later ones want packages that were not to be had.
    "litellm": ("litellm[proxy]==1.106.12",),
    "open-webui": ("open-webui==0.12.4",),
    "instructor": ("instructor==1.17.0",),
    "pydantic-ai": ("pydantic-ai-slim[openai]==2.68.0",),
    "openai-agents": ("openai-agents==0.24.0",),
    "dspy": ("dspy==3.4.1",),
    "smolagents": ("smolagents[openai]==1.26.0",),
    "llama-index": ("llama-index-llms-openai-like==0.8.1",),
    "haystack": ("haystack-ai==3.4.1",),
    "vercel-ai": ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92"),
    "langchain-js": ("@langchain/openai@1.6.0", "@langchain/core@1.4.0"),
    "llm": ("llm==0.36",),
    "aider": ("aider-chat==0.86.2",),
    "opencode": ("opencode-ai@1.18.33",),
    "inspect-ai": ("inspect-ai==0.3.285", "openai==3.57.0"),
    "lm-eval": ("lm-eval[api]==0.4.13",),
    "guidellm": ("guidellm==0.8.1",),
    "aiperf": ("aiperf==0.13.0",),
}
NODE = ("openai-node", "vercel-ai", "langchain-js", "opencode")
NEED_TORCH = ("open-webui", "guidellm")


@dataclass(frozen=True, slots=True)
class Environment:
    """A folder with a client's packages."""

    name: str

    @property
    def folder(self) -> Path:
        return CACHE / self.name

    @property
    def programs(self) -> Path:
        return self.folder / ("node_modules/.bin" if self.name in NODE else "bin")

    def program(self, name: str) -> str:
        return str(self.programs / name)


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
        npm = ["npm", "install", "--silent", "--before", UPLOADED_BEFORE]
        _run([*npm, *PINS[name]], environment.folder)
    else:
        _run([_uv(), "venv", "--quiet", "--python", sys.executable, str(environment.folder)], CACHE)
        if name in NEED_TORCH:
            _install(environment, [_torch()])
        _install(environment, ["--exclude-newer", UPLOADED_BEFORE, *PINS[name]])
    stamp.write_text(wanted)
    return environment


def _uv() -> str:
    """uv of the lock: pip cannot look at upload dates."""
    return str(Path(sys.executable).with_name("uv"))


def _torch() -> str:
    """torch as the lock has it: left to itself, uv takes a build for GPUs of several GB."""
    lock = (REPOSITORY / "deploy/requirements-cpu.txt").read_text()
    found = re.search(r"^torch==.*$", lock, re.MULTILINE)
    assert found is not None, "the CPU's lock has no torch"
    return found[0]


def _install(environment: Environment, arguments: Sequence[str]) -> None:
    python = environment.program("python")
    _run([_uv(), "pip", "install", "--quiet", "--python", python, *arguments], CACHE)


def _run(command: Sequence[str], folder: Path) -> None:
    # uv does not read pip's configuration, so the find-links that pip is given are handed to it.
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS") or ""
    env = os.environ | {"UV_FIND_LINKS": links}
    with tempfile.TemporaryFile("w+") as said:
        try:
            ended = subprocess.run(
                command, cwd=folder, env=env, stdout=said, stderr=said,
                timeout=INSTALLED_WITHIN_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Missing(f"not installed after {INSTALLED_WITHIN_S} s") from None
        said.seek(0)
        if ended.returncode:
            raise Missing(said.read().strip()[-400:])
