"""More Ray nodes on this machine, with resources that only Ray believes in."""

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from serve_app.core.placement.labels import ACCELERATOR_LABEL
from serve_app.local.cluster import ClusterError, LocalCluster
from serve_app.local.ports import free_ports
from serve_app.local.ray_head import OBJECT_STORE_BYTES

T4 = "T4"
RTX_4090 = "GeForce-RTX-4090"
IDLE = "ray::IDLE"
STARTED = "Ray runtime started"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
POLL_S = 0.1
# Each on a port of its own; those that are left out take any free one.
_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
)


@contextmanager
def gpu_nodes(
    cluster: LocalCluster, accelerator_types: Iterable[str], *, gpus_each: int = 1
) -> Iterator[None]:
    """A node with so many GPUs for each of the types, for as long as the block runs.

    One after the other: two that start at once choose the same names for their sockets.
    """
    with ExitStack() as nodes:
        for accelerator_type in accelerator_types:
            nodes.enter_context(gpu_node(cluster, accelerator_type, gpus_each))
        yield


def idle_processes(accelerator_type: str) -> int:
    """Idle workers of the nodes with this accelerator type: children of raylets with its label."""
    label = f'"{ACCELERATOR_LABEL}": "{accelerator_type}"'
    raylets = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "raylet" and label in " ".join(process.info["cmdline"] or ())
    ]
    return sum(IDLE in child.cmdline() for raylet in raylets for child in raylet.children())


@contextmanager
def gpu_node(cluster: LocalCluster, accelerator_type: str, gpus: int) -> Iterator[None]:
    """One node with GPUs. Raises ClusterError if it does not start."""
    options = (
        # A replica asks for two CPUs, and there is one more.
        *(f"--num-cpus={2 * gpus + 1}", f"--num-gpus={gpus}"),
        f"--labels={ACCELERATOR_LABEL}={accelerator_type}",
    )
    with ray_node(cluster, options):
        yield


@contextmanager
def ray_node(cluster: LocalCluster, options: Sequence[str]) -> Iterator[None]:
    """One node, with these options of `ray start`; it may be dead when the block is left. Raises
    ClusterError if it does not start."""
    ports = free_ports(len(_PORTS))
    command = [
        str(Path(sys.executable).with_name("ray")),
        *("start", "--block", "--log-color=false", "--disable-usage-stats"),
        f"--address={cluster.client_env['RAY_ADDRESS']}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        *options,
        *(f"--{name}={port}" for name, port in zip(_PORTS, ports, strict=True)),
    ]
    log = cluster.run_dir / f"ray-start-{ports[0]}.log"
    with log.open("wb") as output:
        # It carries the run's marker, so the cluster's own end would find what is left of it.
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "serve_app.local.supervisor", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=cluster.env,
            start_new_session=True,
        )
    try:
        _await_start(supervisor, log)
        yield
    finally:
        supervisor.terminate()
        try:
            supervisor.wait(STOP_LIMIT_S)
        finally:
            assert supervisor.stdin is not None
            supervisor.stdin.close()


def _await_start(supervisor: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while STARTED not in log.read_text():
        if supervisor.poll() is not None or time.monotonic() > deadline_s:
            raise ClusterError("a further node of Ray did not start", log.read_text())
        time.sleep(POLL_S)
