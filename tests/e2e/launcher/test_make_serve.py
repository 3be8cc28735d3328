"""`python -m serve_app serve`, which `make serve` calls: from nothing to ready and back."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from serve_app.local.ports import free_ports, is_free

HERE = Path(__file__).parent
READY_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0


def profile(path: Path, *, host: str = "127.0.0.1", **chat_args: str) -> Path:
    def app(name: str, prefix: str, **args: str) -> dict[str, Any]:
        return {
            "name": name,
            "route_prefix": prefix,
            "import_path": "small_apps:build",
            "args": {"name": name, **args},
        }

    apps = [app("web", "/"), app("chat", "/api/chat", tier="chat", **chat_args)]
    config = {"http_options": {"host": host, "port": 8000}, "applications": apps}
    path.write_text(yaml.safe_dump(config))
    return path


class Launcher:
    """The command in a process of its own, its output, and what it started."""

    def __init__(self, profile: Path, port: int, output: Path, *options: str) -> None:
        self.port, self.output = port, output
        env = os.environ | {"PYTHONPATH": str(HERE), "COLUMNS": "200"}
        with output.open("wb") as stream:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "serve_app", "serve"),
                    *("--port", str(port), "--profile", str(profile), *options),
                ],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=env,
            )
        self.family: set[psutil.Process] = set()

    def named(self, name: str) -> list[psutil.Process]:
        """Of those that run now: HAProxy is another process after it has been given a new
        configuration, and Ray ends idle workers when it likes."""
        self.family |= set(psutil.Process(self.process.pid).children(recursive=True))
        found: list[psutil.Process] = []
        for process in self.family:
            with suppress(psutil.NoSuchProcess):
                found += [process] if process.name() == name else []
        return found

    def read(self) -> str:
        return self.output.read_text()

    def wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + READY_LIMIT_S
        while "Ready after" not in self.read():
            assert self.process.poll() is None, self.read()
            assert time.monotonic() < deadline_s, self.read()
            time.sleep(0.5)
        self.family = set(psutil.Process(self.process.pid).children(recursive=True))

    def remove_logs(self) -> None:
        """A start that failed keeps them for its reader."""
        for run_dir in set(re.findall(r"/tmp/ts-[0-9a-f]{8}", self.read())):
            shutil.rmtree(run_dir, ignore_errors=True)

    def assert_nothing_is_left(self) -> None:
        left = [process for process in self.family if process.is_running()]
        assert left == []
        assert is_free(self.port)


@contextmanager
def started_in(folder: Path, host: str = "127.0.0.1") -> Iterator[Launcher]:
    port = free_ports(1)[0]
    options = () if host == "127.0.0.1" else ("--allow-anonymous",)
    started = Launcher(profile(folder / "p.yaml", host=host), port, folder / "out", *options)
    started.wait_until_ready()
    yield started
    started.process.terminate()
    started.process.wait(STOP_LIMIT_S)
    started.remove_logs()


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Runs until the test that stops it; its service, as the GPU profiles', is everybody's."""
    with started_in(tmp_path_factory.mktemp("launcher"), "0.0.0.0") as started:
        yield started


@pytest.fixture
def victims_launcher(tmp_path: Path) -> Iterator[Launcher]:
    with started_in(tmp_path) as started:
        yield started


def test_a_second_start_on_its_port_names_the_first(launcher: Launcher, tmp_path: Path) -> None:
    second = Launcher(profile(tmp_path / "p.yaml"), launcher.port, tmp_path / "second")
    assert second.process.wait(60) == 1
    assert f"`kill {launcher.process.pid}`" in second.read()
    assert launcher.process.poll() is None


def test_a_service_for_everybody_does_not_start_unless_somebody_says_so(tmp_path: Path) -> None:
    open_to_all = profile(tmp_path / "p.yaml", host="0.0.0.0")
    refused = Launcher(open_to_all, free_ports(1)[0], tmp_path / "out")
    assert refused.process.wait(60) == 1
    assert "--keys" in refused.read()
    assert "--allow-anonymous" in refused.read()


def test_only_the_service_listens_beyond_this_machine_and_it_says_so(launcher: Launcher) -> None:
    wide = {
        connection.laddr.port
        for process in psutil.Process(launcher.process.pid).children(recursive=True)
        for connection in connections_of(process)
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    }
    assert wide == {launcher.port}
    assert f"every address of this machine, port {launcher.port}, and asks for no key" in (
        launcher.read()
    )


def connections_of(process: psutil.Process) -> list[Any]:
    with suppress(psutil.NoSuchProcess):
        return process.net_connections("tcp")
    return []


def test_it_shows_how_it_goes_and_stops_all_of_it(launcher: Launcher) -> None:
    text = launcher.read()
    for piece in ("waiting for Ray", "chat: load done in 2.0 s", "curl -N", "/api/chat", "Ctrl-C"):
        assert piece in text
    assert httpx.get(f"http://127.0.0.1:{launcher.port}/api/chat/").json() == {"ok": True}
    assert launcher.named("raylet")
    assert launcher.named("haproxy")
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.process.wait(STOP_LIMIT_S) == 0
    assert "stopped: nothing is left running" in launcher.read()
    launcher.assert_nothing_is_left()


@pytest.mark.parametrize("victim", ["raylet", "starter"])
def test_a_killed_part_takes_the_rest_along(victims_launcher: Launcher, victim: str) -> None:
    launcher = victims_launcher
    if victim == "raylet":
        launcher.named("raylet")[0].kill()
        assert launcher.process.wait(STOP_LIMIT_S) == 1
        assert "Ray ended by itself" in launcher.read()
    else:
        launcher.process.kill()
        launcher.process.wait()
        _, alive = psutil.wait_procs(launcher.family, timeout=STOP_LIMIT_S)
        assert alive == []
    launcher.assert_nothing_is_left()


def test_an_application_that_cannot_start_says_why(tmp_path: Path) -> None:
    fault = "The model directory '/x' has no config.json: download it again."
    bad = profile(tmp_path / "bad.yaml", fault=fault)
    port = free_ports(1)[0]
    failed = Launcher(bad, port, tmp_path / "out")
    assert failed.process.wait(READY_LIMIT_S) == 1
    text = failed.read()
    assert f"'chat' did not start: ValueError: {fault}" in text
    assert "the logs stay in /tmp/ts-" in text
    assert is_free(port)
    failed.remove_logs()
