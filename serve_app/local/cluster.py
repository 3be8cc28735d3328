"""A Ray cluster of its own on this machine: `tierserve serve` and the tests start the same one.

It shares no port, folder or token with another cluster here, and ends by its own process tree:
`ray stop` would end other people's clusters too.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from serve_app.local.ports import free_ports
from serve_app.local.profiles import load_profile, with_http_port
from serve_app.local.ray_head import AUTH_FILE, RayHead
from serve_app.local.serve_api import AppStatus, ServeApi, ServeApiError, failure_reason
from serve_app.local.services import RECORD_FILE, record_of_service
from serve_app.local.supervisor import RUN_ID_VARIABLE, end_processes, processes_of_run
from serve_app.serving.haproxy_wrapper import HOST_VARIABLE
from serve_app.serving.scheduling_class import never_preempt

POLL_S = 0.5
RAY_START_LIMIT_S = 120.0
STOP_LIMIT_S = 40.0


class ClusterError(RuntimeError):
    """Ray did not start, or an application did not; the message says why, `detail` how."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class LocalCluster:
    """One Ray head with Serve, its HTTP port, and everything needed to end it.

    As a context manager it is stopped at the end, whatever happened.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        http_host: str = "127.0.0.1",
        environment: Mapping[str, str] | None = None,
        status_address: str | None = None,
        haproxy: bool = True,
        ray_options: tuple[str, ...] = (),
        interrupts: bool = False,
    ) -> None:
        """Applications listen on `http_host`, everything else on 127.0.0.1 only. `environment` wins
        over deploy/runtime.env; at `status_address` (`host:port`) the operators' pages need no key,
        where keys are on; `ray_options` go to `ray start`. With `interrupts` all processes
        are in Linux' normal scheduling class, not only the engines."""
        self.port = port or free_ports(1)[0]
        self._head = RayHead.beside(self.port)
        self.env = self._head.environment(
            haproxy=haproxy, http_host=http_host, chosen=environment or {}
        )
        # HAProxy alone listens on `http_host`. Without the wrapper, or without HAProxy, Serve does,
        # and with HAProxy each replica too.
        self._serve_host = "127.0.0.1" if HOST_VARIABLE in self.env else http_host
        self.api = ServeApi(self._head.dashboard_address, self._head.token)
        self._status_address = status_address
        self._options = ray_options
        self._interrupts = interrupts
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def run_id(self) -> str:
        """Marks this run's processes, in their environment."""
        return self._head.run_id

    @property
    def run_dir(self) -> Path:
        """Sockets, token and logs of this run."""
        return self._head.run_dir

    @property
    def base_url(self) -> str:
        """Where the applications listen."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def status_url(self) -> str:
        """Where `/api/tiers` and `/metrics` answer without a key."""
        return f"http://{self._status_address}" if self._status_address else self.base_url

    @property
    def client_env(self) -> dict[str, str]:
        """Environment in which `ray` and `serve` commands speak to this cluster."""
        addresses = {
            "RAY_ADDRESS": self._head.gcs_address,
            "RAY_DASHBOARD_ADDRESS": self._head.dashboard_address,
        }
        return {n: v for n, v in self.env.items() if n != RUN_ID_VARIABLE} | addresses

    @property
    def log_dir(self) -> Path:
        """Ray's log folder of this run: workers' output, and Serve's own below `serve/`."""
        return self.run_dir / "ray" / "session_latest" / "logs"

    def start(self) -> None:
        """Start the Ray head; returns when Serve's interface answers."""
        self.run_dir.mkdir(mode=0o700)
        self._write_secret(AUTH_FILE, self._head.token)
        record = record_of_service(
            self.port,
            self._head.dashboard_address,
            self.status_url if self._status_address else None,
        )
        self._write_secret(RECORD_FILE, record)
        own = {n: v for n, v in self.client_env.items() if os.environ.get(n) != v}
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(own.items())]
        self._write_secret("env", "".join(lines))
        with (self.run_dir / "ray-start.log").open("wb") as log:
            self._supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-m", "serve_app.local.supervisor"),
                    *self._head.command(self._options),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                # Ctrl-C in the terminal is for the starter, which then stops this in order.
                start_new_session=True,
                preexec_fn=None if self._interrupts else never_preempt,
            )
        deadline_s = time.monotonic() + RAY_START_LIMIT_S
        while not self.api.answers():
            self._check_alive()
            if time.monotonic() > deadline_s:
                raise ClusterError(f"Ray did not start within {RAY_START_LIMIT_S:.0f} s.")
            time.sleep(POLL_S)

    def deploy(
        self,
        config: Mapping[str, Any] | Path | str,
        *,
        ready_path: str = "/readyz",
        timeout_s: float | None = None,
        on_poll: Callable[[Mapping[str, AppStatus]], None] = lambda _: None,
    ) -> None:
        """Deploy a Serve config (content, file or profile name) and wait until it answers."""
        content = config if isinstance(config, Mapping) else load_profile(str(config))
        self.api.deploy(with_http_port(content, self.port, host=self._serve_host))
        names = [app["name"] for app in content["applications"]]
        deadline_s = time.monotonic() + (timeout_s or float("inf"))
        while True:
            self._check_alive()
            apps = self._status()
            on_poll(apps)
            for app in apps.values():
                if app.failure is not None:
                    reason = failure_reason(app.failure)
                    raise ClusterError(f"'{app.name}' did not start: {reason}", app.failure)
            running = all(name in apps and apps[name].status == "RUNNING" for name in names)
            if running and self._is_ready(ready_path):
                return
            if time.monotonic() > deadline_s:
                states = {name: apps[name].status for name in apps}
                raise ClusterError(f"Not ready after {timeout_s:.0f} s: {states}")
            time.sleep(POLL_S)

    def wait_while_alive(self, seconds: float) -> None:
        """Sleep; raises ClusterError when Ray has ended by itself."""
        time.sleep(seconds)
        self._check_alive()

    def stop(self, *, keep_logs: bool = False) -> None:
        """End every process of this run; afterwards its ports are free."""
        if self._supervisor is not None:
            self.hurry_or_stop()
            try:
                self._supervisor.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()
                self._supervisor.wait()
            # Only if the supervisor itself was killed is anything left here.
            end_processes(lambda: processes_of_run(self.run_id, self.run_dir))
            if self._supervisor.stdin is not None:
                self._supervisor.stdin.close()
            self._supervisor = None
        if not keep_logs:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def hurry_or_stop(self) -> None:
        """Ask the supervisor to stop; asked twice, it waits for nothing."""
        if self._supervisor is not None:
            self._supervisor.terminate()

    def __enter__(self) -> "LocalCluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _status(self) -> dict[str, AppStatus]:
        # A busy machine may miss one poll; the next one will do.
        with contextlib.suppress(ServeApiError):
            return self.api.status()
        return {}

    def _is_ready(self, path: str) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.base_url + path, timeout=10) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def _check_alive(self) -> None:
        if self._supervisor is None or self._supervisor.poll() is None:
            return
        log = (self.run_dir / "ray-start.log").read_text(errors="replace")
        raise ClusterError("Ray ended by itself; its last log lines follow.", log)

    def _write_secret(self, name: str, text: str) -> None:
        file = self.run_dir / name
        file.touch(mode=0o600)
        file.write_text(text)
