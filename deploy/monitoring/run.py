"""A Prometheus beside an application on this machine: its folder, its targets, its process."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from deploy.monitoring.binaries import ROOT, MonitoringError, prometheus_binary
from deploy.monitoring.rules import HERE, RULE_FILES, shortened

RUN_DIR = ROOT / ".cache" / "monitoring"
RAY_TARGETS = Path("ray") / "prom_metrics_service_discovery.json"
START_LIMIT_S = 30.0
STOP_LIMIT_S = 20.0
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Times:
    """How often Prometheus looks, and by which factor the rules' windows are shorter."""

    scrape_s: int = 15
    shorter: int = 1


def lay_out(
    run_dir: Path, application: str, ray_targets: Path | None, times: Times | None = None
) -> Path:
    """Write configuration, rules and targets into `run_dir`; path of the configuration.

    `application` is host:port of the one metrics page, `ray_targets` the file in which Ray names
    its own.
    """
    times = times or Times()
    (run_dir / "targets").mkdir(parents=True, exist_ok=True)
    (run_dir / "rules").mkdir(exist_ok=True)
    for file in RULE_FILES:
        (run_dir / "rules" / file.name).write_text(shortened(file.read_text(), times.shorter))
    (run_dir / "targets" / "tierserve.json").write_text(json.dumps([{"targets": [application]}]))
    of_ray = run_dir / "targets" / "ray.json"
    of_ray.unlink(missing_ok=True)
    if ray_targets is None:
        of_ray.write_text("[]")
    else:
        of_ray.symlink_to(ray_targets)
    config = (HERE / "prometheus.yml").read_text().replace("15s", f"{times.scrape_s}s")
    path = run_dir / "prometheus.yml"
    path.write_text(config)
    return path


def find_ray_targets(port: int) -> Path | None:
    """The file in which the Ray cluster behind a port of this machine names its metrics pages.

    Ray writes it into its temporary folder, which is above the configuration file of the HAProxy
    that listens; not into /tmp, above its other files, where an earlier Ray may have left one. None
    where that is not to be seen.
    """
    words = [word for process in _listeners(port) for word in process.cmdline()]
    folders = {folder for word in words if word.startswith("/") for folder in Path(word).parents}
    found = [folder for folder in folders if (folder / RAY_TARGETS).exists()]
    deepest = max(found, key=lambda folder: len(folder.parts), default=None)
    return None if deepest is None else deepest / RAY_TARGETS


def command(config: Path, port: int) -> Sequence[str]:
    """`prometheus`, with its data beside its configuration, for this machine only."""
    return [
        prometheus_binary("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={config.parent / 'data'}",
        "--storage.tsdb.retention.time=15d",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]


class Prometheus:
    """A running Prometheus; as a context manager it is ended, its data removed."""

    def __init__(self, config: Path, port: int) -> None:
        self._config, self._port = config, port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "Prometheus":
        log = self._config.parent / "prometheus.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - words of our own
                command(self._config, self._port), stdout=output, stderr=subprocess.STDOUT
            )
        deadline_s = time.monotonic() + START_LIMIT_S
        while not _answers(f"{self.url}/-/ready"):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._stop()
                raise MonitoringError(f"Prometheus did not start: {log.read_text()[-1000:]}")
            time.sleep(POLL_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        shutil.rmtree(self._config.parent / "data", ignore_errors=True)

    def _stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _listeners(port: int) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections):
            found.append(process)
    return found


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
