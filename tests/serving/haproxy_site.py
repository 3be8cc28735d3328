"""HAProxy as Ray Serve would start it here, with a backend of a few lines in place of replicas."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.local.ports import free_ports
from serve_app.local.profiles import read_env_file

RUNTIME_ENV = Path(__file__).parents[2] / "deploy" / "runtime.env"
START_LIMIT_S = 20.0
WRAPPER = Path(sys.executable).with_name("tierserve-haproxy")


def rendered(
    folder: Path,
    port: int = 8000,
    server_port: int = 8001,
    *,
    timeout_client_s: int = 60,
    other_port: int = 1,
) -> Path:
    """Ray's own configuration file for four applications; one of them has two servers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig
        from ray.serve._private.haproxy import ServerConfig as Server
        from ray.serve.config import HTTPOptions
    environment = read_env_file(RUNTIME_ENV.read_text())
    stats_port, metrics_port = free_ports(2)
    config = HAProxyConfig(
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_socket_path=str(folder / "metrics.sock"),
        stats_port=stats_port,
        metrics_port=metrics_port,
        timeout_client_s=timeout_client_s,
        retry_on="conn-failure empty-response",
        retries=int(environment["RAY_SERVE_HAPROXY_RETRIES"]),
        observe_error_limit=int(environment["RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT"]),
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        has_received_routes=True,
        has_received_servers=True,
    )
    servers = [Server(name="replica", host="127.0.0.1", port=server_port)]
    # Nobody listens at port 1.
    away = [Server(name="away", host="127.0.0.1", port=1)]
    pair = [*servers, Server(name="other", host="127.0.0.1", port=other_port)]
    routes = {"/": servers, "/api/chat": servers, "/away": away, "/pair": pair}
    backends = {
        f"http-app{number}": BackendConfig(
            name=f"http-app{number}", path_prefix=prefix, app_name=f"app{number}", servers=each
        )
        for number, (prefix, each) in enumerate(routes.items())
    }
    HAProxyApi(config, backends, str(folder / "haproxy.cfg"))._generate_config_file_internal()
    return folder / "haproxy.cfg"


@dataclass(slots=True)
class Answer:
    """What came on one connection, until it was closed or the test had waited long enough."""

    raw: bytes
    closed: bool
    elapsed_s: float

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.raw.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")[1:]
        return [(n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines)]

    def header(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each == name]

    @property
    def body(self) -> bytes:
        return self.raw.split(b"\r\n\r\n", 1)[1]


@dataclass(slots=True)
class Backend:
    """A replica of a few lines: answers with the request's headers; some paths misbehave."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    async def end(self) -> None:
        """Close what HAProxy has left open: a transport that is not closed is an error of the test
        in which garbage is looked for next."""
        talking = asyncio.all_tasks() - {asyncio.current_task()}
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
        for writer in self.writers:
            writer.transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        path = head.split(b" ", 2)[1].decode()
        if path == "/-/healthz":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            return
        self.heads.append(head)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (
                line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]
            )
        }
        if path.startswith("/refuse"):
            # Before the body is there.
            writer.write(b"HTTP/1.1 %s No\r\ncontent-length: 2\r\n\r\nno" % path[-3:].encode())
            await writer.drain()
        await reader.readexactly(int(headers.get("content-length", 0)))
        if path.startswith("/die"):
            raise ConnectionError
        if path.startswith("/own503"):
            writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nmine")
            return
        if "/stream/" in path:
            await self._stream(writer, silent_s=float(path.rsplit("/", 1)[1]))
            return
        body = json.dumps(headers).encode()
        if path.startswith("/large"):
            body = b"x" * 20_000_000
        writer.write(
            b"HTTP/1.1 200 OK\r\nx-request-id: own\r\nX-Request-ID: own\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter, *, silent_s: float) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await asyncio.sleep(silent_s)
        writer.write(b"4\r\nlast\r\n0\r\n\r\n")


@dataclass(slots=True)
class HaproxySite:
    """A running HAProxy, its port, and its backend."""

    port: int
    backend: Backend
    process: subprocess.Popen[bytes]
    config: Path

    def send(self, data: bytes, *, wait_s: float = 20.0) -> Answer:
        """Everything that comes back until the connection is closed, or nothing comes any more."""
        began_s = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.settimeout(wait_s)
            connection.sendall(data)
            received, closed = b"", False
            try:
                while piece := connection.recv(65536):
                    received += piece
                closed = True
            except TimeoutError:
                pass
            except ConnectionError:
                closed = True
        return Answer(received, closed, time.monotonic() - began_s)

    def get(self, path: str, *headers: bytes, method: str = "GET", body: bytes = b"") -> Answer:
        lines = [f"{method} {path} HTTP/1.1".encode(), b"host: a", b"connection: close", *headers]
        if body:
            lines.append(b"content-length: %d" % len(body))
        return self.send(b"\r\n".join([*lines, b"", body]))


@contextmanager
def haproxy_site(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    timeout_client_s: int = 60,
    other_port: int = 1,
) -> Iterator[HaproxySite]:
    """HAProxy behind the wrapper, in front of a backend that is up."""
    backend, ready = Backend(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(backend.serve(ready, stop)), daemon=True
    )
    thread.start()
    assert ready.wait(START_LIMIT_S)
    port = free_ports(1)[0]
    config = rendered(
        folder, port, backend.port, timeout_client_s=timeout_client_s, other_port=other_port
    )
    with (folder / "stdout").open("wb") as output:
        process = subprocess.Popen(
            [str(WRAPPER), "-db", "-f", str(config), "-dR"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment or {}),
        )
    try:
        site = HaproxySite(port, backend, process, config)
        wait_until_up(site)
        yield site
    finally:
        process.terminate()
        process.wait()
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.run_until_complete(backend.end())
        loop.close()


def wait_until_up(site: HaproxySite) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while True:
        try:
            if site.get("/").status == 200:
                return
        except (OSError, IndexError):
            pass
        assert site.process.poll() is None, (site.config.parent / "stdout").read_text()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
