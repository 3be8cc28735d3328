"""How the Ray head of a local cluster is called, and the environment of all its processes."""

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.local.ports import free_port_block, free_ports
from serve_app.local.profiles import DEPLOY_DIR, read_env_file
from serve_app.local.supervisor import RUN_ID_VARIABLE
from serve_app.serving.haproxy_wrapper import HOST_VARIABLE

# Serve passes no data through the object store; this is about Ray's least.
OBJECT_STORE_BYTES = 100_000_000
REPLICA_PORTS = 100
# Each run has a folder there, which is not below TMPDIR: Unix sockets lie in it, whose paths end at
# 107 bytes.
RUN_ROOT = Path("/tmp")
RUN_DIR_PREFIX = "ts-"
AUTH_FILE = "token"
# Another cluster's address or token must not reach this one.
_NOT_INHERITED = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS")
_HEAD_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "ray-client-server-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
)
_SERVE_PORTS = (
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


@dataclass(frozen=True, slots=True)
class RayHead:
    """Ports, folder and token that no other cluster on this machine has."""

    ports: Sequence[int]
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    first_replica_port: int = field(default_factory=lambda: free_port_block(REPLICA_PORTS))

    @classmethod
    def beside(cls, http_port: int) -> "RayHead":
        """For a cluster whose applications will listen at `http_port`: HAProxy binds it minutes
        after these ports are chosen, so that it looks free until then."""
        return cls(free_ports(len(_HEAD_PORTS) + len(_SERVE_PORTS), reserved=(http_port,)))

    @property
    def run_dir(self) -> Path:
        """Sockets, token and logs of this run."""
        return RUN_ROOT / f"{RUN_DIR_PREFIX}{self.run_id}"

    @property
    def gcs_address(self) -> str:
        """What `RAY_ADDRESS` is for this cluster."""
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def dashboard_address(self) -> str:
        """Where Serve's REST interface is."""
        return f"http://127.0.0.1:{self.ports[1]}"

    def command(self, options: Sequence[str]) -> list[str]:
        """`ray start`, in the foreground."""
        return [
            str(Path(sys.executable).with_name("ray")),
            *("start", "--head", "--block", "--log-color=false", "--disable-usage-stats"),
            # Serve's REST interface is part of the dashboard.
            "--include-dashboard=true",
            # No driver reads the workers' output, their log files are followed instead.
            "--include-log-monitor=false",
            *(f"--{name}={port}" for name, port in zip(_HEAD_PORTS, self.ports, strict=False)),
            f"--temp-dir={self.run_dir / 'ray'}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            *options,
        ]

    def environment(
        self, *, haproxy: bool, chosen: Mapping[str, str], http_host: str = "127.0.0.1"
    ) -> dict[str, str]:
        """The caller's environment, deploy/runtime.env, this cluster's own, `chosen`: last wins."""
        inherited = {n: v for n, v in os.environ.items() if n not in _NOT_INHERITED}
        runtime = read_env_file((DEPLOY_DIR / "runtime.env").read_text())
        serve_ports = zip(_SERVE_PORTS, self.ports[len(_HEAD_PORTS) :], strict=True)
        own = {
            "RAY_AUTH_TOKEN_PATH": str(self.run_dir / AUTH_FILE),
            # Nothing moves elsewhere from a single node, so there is nothing to drain for.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # What Ray does where it supports no clusters: the node's address is 127.0.0.1, and all
            # of Ray's servers listen there only.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_SERVE_ENABLE_HA_PROXY": "1" if haproxy else "0",
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(self.first_replica_port),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(
                self.first_replica_port + REPLICA_PORTS - 1
            ),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(self.run_dir / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(self.run_dir / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(self.run_dir / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(self.run_dir),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(self.run_dir / "server-state"),
            # vLLM calls tools of the environment by name.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            RUN_ID_VARIABLE: self.run_id,
        }
        if haproxy and (wrapper := haproxy_wrapper()) is not None:
            own |= {"RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper), HOST_VARIABLE: http_host}
        return {**inherited, **runtime, **own, **{n: str(p) for n, p in serve_ports}, **chosen}


def haproxy_wrapper() -> Path | None:
    """The command that hardens HAProxy; None in an environment that is older than it."""
    path = Path(sys.executable).with_name("tierserve-haproxy")
    return path if os.access(path, os.X_OK) else None
