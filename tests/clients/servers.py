"""Starts a client that is a server itself, and waits for it."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.clients.environments import REPOSITORY, Environment

READY_WITHIN_S = 240
PROXY_PORT = 4000
PROXY_KEY = "sk-clients"


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], health: str, folder: Path
) -> Iterator[None]:
    """The program, from when it answers at `health` until the end of the block."""
    log_file = folder / "server.log"
    with log_file.open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **env}, cwd=folder, stdout=log, stderr=log
        )
    try:
        give_up_s = time.monotonic() + READY_WITHIN_S
        while not _answers(health):
            said = log_file.read_text()[-1000:]
            assert server.poll() is None, f"it has ended: {said}"
            assert time.monotonic() < give_up_s, f"it does not answer at {health}: {said}"
            time.sleep(1)
        yield
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def litellm_proxy(environment: Environment, service: str) -> Iterator[str]:
    """LiteLLM's proxy with the configuration of deploy/litellm."""
    config = REPOSITORY / "deploy/litellm/config.yaml"
    address = f"http://127.0.0.1:{PROXY_PORT}"
    command = [environment.program("litellm"), "--config", str(config)]
    env = {
        "TIERSERVE_URL": f"{service}/v1",
        "TIERSERVE_KEY": "none",
        "LITELLM_MASTER_KEY": PROXY_KEY,
        # It otherwise fetches a list of prices at its start.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    with tempfile.TemporaryDirectory() as folder:
        where = ["--host", "127.0.0.1", "--port", str(PROXY_PORT)]
        health = f"{address}/health/liveliness"
        with running([*command, *where], env, health, Path(folder)):
            yield address
