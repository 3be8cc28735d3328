"""Runs a snippet as a reader does who copies it: with his client's packages, and a home folder of
its own, so that it neither finds nor leaves settings of whoever runs the trial."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.clients.environments import REPOSITORY, Environment

SUFFIXES = {"python": ".py", "javascript": ".mjs", "bash": ".sh"}
SNIPPET_WITHIN_S = 180
# Nobody listens there: what a client asks of anyone but the service fails at once.
NOBODY = "http://127.0.0.1:9"
_OF_THE_USER = re.compile(r"^(XDG_|OPENAI_|ANTHROPIC_|HF_|AIDER_|LLM_)")


def run(environment: Environment, language: str, script: str, expect: str) -> str:
    """What was wrong, or nothing."""
    # Node.js looks for packages from where the script lies.
    beside = environment.folder if language == "javascript" else None
    with tempfile.TemporaryDirectory(dir=beside) as home:
        folder = Path(home)
        # Command lines name the embedded model's tokenizer as seen from the repository.
        (folder / "serve_app").symlink_to(REPOSITORY / "serve_app")
        file = folder / f"snippet{SUFFIXES[language]}"
        file.write_text(script)
        ended = _ended(_command(environment, language, file), folder, _env(environment, folder))
    if ended is None:
        return f"not done after {SNIPPET_WITHIN_S} s"
    status, said, errors = ended
    if status:
        return f"status {status}: {(errors.strip() or said.strip())[-600:]}"
    if not re.search(expect, said, re.DOTALL):
        return f"no {expect!r} in {said[-600:]!r}"
    return ""


def _command(environment: Environment, language: str, file: Path) -> list[str]:
    if language == "bash":
        return ["bash", "-euo", "pipefail", str(file)]
    if language == "javascript":
        return ["node", str(file)]
    return [environment.program("python"), str(file)]


def _env(environment: Environment, home: Path) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _OF_THE_USER.match(name)}
    proxies = {name: NOBODY for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    here = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    path = f"{environment.programs}{os.pathsep}{os.environ['PATH']}"
    return kept | proxies | here | {"HOME": str(home), "PATH": path}


def _ended(command: list[str], folder: Path, env: Mapping[str, str]) -> tuple[int, str, str] | None:
    """Status, output and errors, or nothing after SNIPPET_WITHIN_S. What the snippet started, and
    left running, is ended with it."""
    with _output() as said, _output() as errors:
        script = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = script.wait(SNIPPET_WITHIN_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end_all(script)
        said.seek(0)
        errors.seek(0)
        return status, said.read(), errors.read()


def _end_all(script: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(script.pid, signal.SIGKILL)
    script.wait()


def _output() -> IO[str]:
    return tempfile.TemporaryFile("w+", errors="replace")
