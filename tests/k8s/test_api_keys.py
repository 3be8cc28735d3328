"""The proxy of the component api-keys, run as it is rendered: who gets through, and whether events
come one by one."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from serve_app.local.ports import free_ports
from tests.k8s.manifests import Manifests

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
KEYS = '"~^Bearer sk-Alpha$" team-a;\n"~^Bearer sk-beta$" team-b;\n'

pytestmark = pytest.mark.skipif(not NGINX, reason="no nginx: apt install nginx-light")


@dataclass
class Upstream:
    """Stands where Serve does: two events, the second when `go_on` is set."""

    go_on: threading.Event = field(default_factory=threading.Event)
    seen: list[dict[str, str]] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                upstream.seen.append({"path": self.path, **dict(self.headers)})
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"data: one\n\n")
                self.wfile.flush()
                upstream.go_on.wait(20)
                self.wfile.write(b"data: two\n\n")

            def log_message(self, format: str, *args: object) -> None:
                """Not on the test's output."""

        return Handler


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def port(rendered: Callable[[str], Manifests], upstream: Upstream, tmp_path: Path) -> Iterator[int]:
    """Where the proxy listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), upstream.handler())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (own,) = free_ports(1)
    config = next(c for c in rendered("mixed").all("ConfigMap") if "nginx.conf" in c["data"])
    text = _local(config["data"]["nginx.conf"], tmp_path, own, server.server_port)
    (tmp_path / "nginx.conf").write_text(text)
    (tmp_path / "keys.map").write_text(KEYS)
    command = [str(NGINX), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    # The master listens before it goes into the background.
    subprocess.run([*command, "-g", "daemon on;"], check=True, timeout=20)
    yield own
    upstream.go_on.set()
    subprocess.run([*command, "-s", "stop"], check=True, timeout=20)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("key", ["", "Bearer sk-wrong", "Bearer sk-alpha", "sk-Alpha"])
def test_a_wrong_key_gets_401_in_openai_form(port: int, upstream: Upstream, key: str) -> None:
    answer = httpx.get(f"http://127.0.0.1:{port}/api/chat", headers={"authorization": key})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert upstream.seen == []


def test_a_stream_passes_event_by_event_and_without_the_key(port: int, upstream: Upstream) -> None:
    headers = {"authorization": "Bearer sk-Alpha"}
    with httpx.stream("GET", f"http://127.0.0.1:{port}/api/chat", headers=headers) as answer:
        events = answer.iter_text()
        assert next(events) == "data: one\n\n"
        # The second event is sent only now that the first is here.
        upstream.go_on.set()
        assert "".join(events) == "data: two\n\n"
    assert "sk-Alpha" not in str(upstream.seen)


def test_health_needs_no_key(port: int, upstream: Upstream) -> None:
    upstream.go_on.set()
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{port}/proxy-health").status_code == 204
    assert [each["path"] for each in upstream.seen] == ["/readyz"]


def test_metrics_are_hidden_even_with_a_key(port: int, upstream: Upstream) -> None:
    headers = {"authorization": "Bearer sk-beta"}
    assert httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers).status_code == 404
    assert upstream.seen == []


def _local(text: str, folder: Path, port: int, upstream_port: int) -> str:
    """The same with this machine's paths and ports, and no name to resolve."""
    for pattern, new in (
        (r"/tmp/", f"{folder}/"),
        (r"resolver .*;", ""),
        (r"http://tierserve-serve-svc[^;]*", f"http://127.0.0.1:{upstream_port}"),
        (r"listen 8080", f"listen 127.0.0.1:{port}"),
        (r"/etc/tierserve/keys/", f"{folder}/"),
        (r"/dev/std(err|out)", f"{folder}/log"),
    ):
        text, count = re.subn(pattern, new, text)
        assert count, pattern
    return text
