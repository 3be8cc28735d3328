"""What counts as data, and what the command says where there is none."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy.monitoring.__main__ import main
from deploy.monitoring.binaries import MonitoringError, prometheus_binary
from deploy.monitoring.queries import PrometheusApi, ask_all

FIRING = {"state": "firing", "labels": {"alertname": "A", "tier": "chat", "severity": "page"}}
Answers = Callable[[str], list[list[str]]]


@pytest.fixture
def prometheus() -> Iterator[Callable[[Answers], str]]:
    """Starts a server that answers each range query with one series for each list of values."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = {"alerts": [FIRING]}
                if asked := parse_qs(urlsplit(self.path).query).get("query"):
                    series = [{"values": [[0, v] for v in values]} for values in answers(asked[0])]
                    data = {"result": series}
                body = json.dumps({"data": data}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_series_has_data_if_one_value_is_a_number(
    prometheus: Callable[[Answers], str],
) -> None:
    api = PrometheusApi(prometheus(lambda _: [["NaN", "NaN"], ["NaN", "0"], ["1"]]))
    assert api.series_with_data("x", start_s=0, end_s=60) == 2


def test_every_query_is_asked_without_grafanas_variables(
    prometheus: Callable[[Answers], str],
) -> None:
    asked: list[str] = []

    def answers(query: str) -> list[list[str]]:
        asked.append(query)
        return [["1"]]

    found = list(ask_all(PrometheusApi(prometheus(answers)), start_s=0, end_s=60))
    assert len(found) == len(asked) > 50
    assert [query for query in asked if "$" in query] == []
    assert all(each.series == 1 for each in found)


@pytest.mark.parametrize(
    ("lacking", "status"), [("tierserve_slots", 1), ("ray_node_gpus", 0), ("nothing at all", 0)]
)
def test_the_command_fails_for_what_has_no_data_and_needs_no_gpu(
    prometheus: Callable[[Answers], str],
    lacking: str,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = prometheus(lambda query: [["NaN" if lacking in query else "1"]])
    assert main(["check", "--prometheus", url]) == status
    said = capsys.readouterr().out
    assert ("no data: " in said) == (status == 1)
    assert "fires: A chat (page)" in said


def test_a_prometheus_that_is_not_there_is_named_by_its_address(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check", "--prometheus", "http://127.0.0.1:9"]) == 2
    assert "No Prometheus answers at http://127.0.0.1:9" in capsys.readouterr().out


def test_an_address_without_a_port_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["names", "--application", "localhost"]) == 2
    assert "--application localhost: host:port is needed" in capsys.readouterr().out


def test_without_prometheus_and_apt_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr("deploy.monitoring.binaries.UNPACKED", tmp_path)
    with pytest.raises(MonitoringError, match="apt install prometheus"):
        prometheus_binary("promtool")
