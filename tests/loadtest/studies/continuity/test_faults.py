"""What HAProxy says of its servers, in its own words; and what is done to a node."""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from loadtest.errors import MeasurementError
from loadtest.studies.continuity.faults import RAYLET, drain_node, kill_raylet, up_in
from serve_app.core.tiers import Tier

STATISTICS = """# pxname,svname,scur,status,weight,act,bck,
http_frontend,FRONTEND,1,OPEN,,,,
http-chat,replica-1,0,UP,1,1,0,
http-chat,replica-2,0,UP 1/2,1,1,0,
http-chat,replica-3,0,DOWN,1,1,0,
http-chat,fallback,0,UP,1,0,1,
http-chat,BACKEND,0,UP,2,2,1,
http-reasoning,replica-4,0,UP,1,1,0,

"""


def test_servers_that_get_requests_are_counted_and_the_fallback_is_none() -> None:
    assert up_in(STATISTICS, Tier.CHAT) == 2
    assert up_in(STATISTICS, Tier.REASONING) == 1
    assert up_in("", Tier.CHAT) == 0


@pytest.fixture
def raylet(tmp_path: Path) -> Iterator[psutil.Process]:
    """A process of that name with a child that ends with it, as Ray's workers do."""
    named = tmp_path / RAYLET
    shutil.copy("/bin/sh", named)
    worker = (
        "import ctypes, signal, time; ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
        "print('up', flush=True); time.sleep(600)"
    )
    command = [str(named), "-c", '"$0" -c "$1"; true', sys.executable, worker]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            yield psutil.Process(process.pid)
        finally:
            process.kill()


async def test_a_replica_ends_with_its_nodes_raylet_and_another_node_comes(
    raylet: psutil.Process,
) -> None:
    (worker,) = raylet.children()
    happened: list[object] = []

    async def busy() -> list[int]:
        return [worker.pid]

    async def add() -> None:
        happened.append(raylet.status() == psutil.STATUS_ZOMBIE)

    async def await_complete(without: set[int]) -> None:
        happened.append(without)

    nodes = SimpleNamespace(add=add)
    service: Any = SimpleNamespace(busy=busy, nodes=nodes, await_complete=await_complete)
    done = await kill_raylet(service, random.Random(0))
    assert happened == [True, {worker.pid}]
    assert done.gone_s >= 0


async def test_without_nodes_of_their_own_no_raylet_is_killed() -> None:
    service: Any = SimpleNamespace(nodes=None)
    for fault in (kill_raylet, drain_node):
        with pytest.raises(MeasurementError, match="no nodes"):
            await fault(service, random.Random(0))
