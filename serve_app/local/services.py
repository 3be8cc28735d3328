"""The services that `tierserve serve` runs on this machine, found by the record each writes."""

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from serve_app.local.ray_head import AUTH_FILE, RUN_DIR_PREFIX, RUN_ROOT

RECORD_FILE = "service.json"
ANSWER_TIMEOUT_S = 10.0
# A file's time and a process' start come from different clocks.
_CLOCKS_APART_S = 2.0


@dataclass(frozen=True, slots=True)
class LocalService:
    """A `serve` of this user whose process lives: its HTTP port, and where its Ray answers;
    `status_url`: where its status needs no key, if that is another place."""

    port: int
    dashboard_address: str
    pid: int
    run_dir: Path
    status_url: str | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self) -> str:
        """Ray's, which whoever looks into the cluster has to show."""
        return (self.run_dir / AUTH_FILE).read_text().strip()


def record_of_service(port: int, dashboard_address: str, status_url: str | None = None) -> str:
    """What a service writes into its run's folder as RECORD_FILE, for `running_services`."""
    record = {
        "port": port,
        "dashboard_address": dashboard_address,
        "pid": os.getpid(),
        "status_url": status_url,
    }
    return json.dumps(record)


def running_services(root: Path = RUN_ROOT) -> list[LocalService]:
    """By port. Folders of other users are not trusted: a token would be sent where they say."""
    return sorted(_running(root), key=lambda service: service.port)


def reported_tiers(service: LocalService) -> list[dict[str, Any]] | None:
    """The tiers of `GET /api/tiers`; None where the service does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = service.status_url or service.base_url
    try:
        with opener.open(f"{url}/api/tiers", timeout=ANSWER_TIMEOUT_S) as answer:
            return list(json.load(answer)["tiers"])
    except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError):
        return None


def _running(root: Path) -> Iterator[LocalService]:
    for record in root.glob(f"{RUN_DIR_PREFIX}*/{RECORD_FILE}"):
        # A run that ends takes its folder along.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
            status = record.stat()
            if status.st_uid != os.getuid() or record.parent.stat().st_uid != os.getuid():
                continue
            written = json.loads(record.read_text())
            service = LocalService(
                port=int(written["port"]),
                dashboard_address=str(written["dashboard_address"]),
                pid=int(written["pid"]),
                run_dir=record.parent,
                status_url=written.get("status_url"),
            )
            # A process that began after the record was written has only the same number.
            if psutil.Process(service.pid).create_time() <= status.st_mtime + _CLOCKS_APART_S:
                yield service
