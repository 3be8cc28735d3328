"""Parts are found by title and run, killed, and are over only when what replaces them is there.

The processes are real and only pretend to be Ray's and vLLM's, by their titles.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from loadtest.servers.processes import parts, pids_of
from loadtest.soak import harm
from loadtest.soak.plan import FAULTS, Turn
from serve_app.local.supervisor import RUN_ID_VARIABLE

RUN_ID = "test-soak-kill"
# A replica that has an engine; both wait until they are killed.
REPLICA = (
    "import subprocess, sys; e = subprocess.Popen(['VLLM::EngineCore', '-c', 'input()'], "
    "executable=sys.argv[1], stdin=subprocess.PIPE); print(e.pid, flush=True); e.wait()"
)


def start(title: str, code: str = "print(0, flush=True); input()") -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        # Under such a title Python does not find its own file.
        [title, "-c", code, sys.executable],
        executable=sys.executable,
        env=os.environ | {RUN_ID_VARIABLE: RUN_ID},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def made() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    processes = {
        "replica": start("ray::ServeReplica:chat:chat", REPLICA),
        "controller": start("ray::ServeController"),
        "haproxy": start("/opt/bin/haproxy"),
    }
    yield processes
    for process in processes.values():
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.kill()
        process.kill()
        process.communicate()


@dataclass
class Server:
    """`pids`: of the ready replicas of chat."""

    pids: set[int]
    ready: bool = True
    status: str = "HEALTHY"
    cluster: Any = field(default_factory=lambda: SimpleNamespace(run_id=RUN_ID))

    async def tiers(self) -> Any:
        replicas = [{"pid": pid, "ready": True} for pid in self.pids]
        tier = {"status": self.status, "replicas": replicas, "replicas_wanted": 1}
        return {"chat": tier}

    async def is_ready(self) -> bool:
        return self.ready


class Traffic:
    tiers = ("chat",)

    async def ask(self, tier: str, kind: Any) -> Any:
        return SimpleNamespace(served=True)


async def harmed(name: str, server: Server) -> harm.Done:
    turn = Turn(next(fault for fault in FAULTS if fault.name == name), 0)
    return await harm.harm(turn, server, Traffic())  # pyright: ignore[reportArgumentType]


def test_each_part_is_found_by_its_role(made: dict[str, subprocess.Popen[bytes]]) -> None:
    found = {part.role: part.pid for part in parts(RUN_ID)}
    replica = made["replica"].pid
    (engine,) = psutil.Process(replica).children()
    assert found == {
        "replica chat": replica,
        "engine chat": engine.pid,
        "controller": made["controller"].pid,
        "haproxy": made["haproxy"].pid,
    }


@pytest.mark.parametrize("name", ["engine", "replica"])
async def test_a_killed_replica_or_engine_is_over_when_another_is_ready(
    name: str, made: dict[str, subprocess.Popen[bytes]]
) -> None:
    replica = made["replica"].pid
    server = Server({replica})
    done = await harmed(name, server)
    made["replica"].wait(10)  # the replica ends with its engine
    assert not await done.is_over()  # it is still reported
    server.pids = set()
    assert not await done.is_over()
    server.pids, server.ready = {1}, False
    assert not await done.is_over()
    server.ready = True
    assert await done.is_over()


async def test_the_controller_is_over_when_a_new_one_calls_all_healthy(
    made: dict[str, subprocess.Popen[bytes]],
) -> None:
    server = Server({7})
    done = await harmed("controller", server)
    made["controller"].wait(10)
    assert not await done.is_over()
    made["new"] = start("ray::ServeController.run_control_loop")
    assert await done.is_over()
    server.pids = {8}
    assert not await done.is_over()  # a replica was replaced


async def test_haproxy_is_over_when_the_tiers_serve(
    made: dict[str, subprocess.Popen[bytes]],
) -> None:
    server = Server({7}, ready=False)
    done = await harmed("haproxy", server)
    assert made["haproxy"].wait(10) == -9
    assert pids_of(RUN_ID, "haproxy") == []
    assert not await done.is_over()
    server.ready = True
    assert await done.is_over()


async def test_a_part_that_is_not_there_cannot_be_killed() -> None:
    with pytest.raises(harm.MeasurementError, match="controller"):
        await harmed("controller", Server({7}))
