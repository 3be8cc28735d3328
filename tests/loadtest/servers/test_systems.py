"""Both servers get the same engine, and every process of a server is found."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

import psutil
import pytest

from loadtest.servers.processes import (
    cpu_by_part_s,
    cpu_s,
    frozen,
    part_of,
    role_of,
    role_of_title,
    server_processes,
    title_of,
)
from loadtest.servers.systems import (
    baseline_command,
    chat_only_config,
    engine_cores,
    engine_environment,
)
from serve_app.config.tier import EngineConfig, tier_args
from serve_app.local.profiles import load_profile
from serve_app.local.supervisor import RUN_ID_VARIABLE

ENGINE = EngineConfig(max_model_len=1024, cpu_slice="0/2", extra_args={"stream-interval": 2})


def test_the_baseline_server_gets_the_engine_arguments_of_the_tier() -> None:
    command = baseline_command(Path("/models/small"), ENGINE, port=4321)

    for words in (
        "--model /models/small",
        "--max-model-len 1024",
        "--enforce-eager",
        "--stream-interval 2",
        "--served-model-name chat",
        "--port 4321",
    ):
        assert words in " ".join(command)
    assert "--speculative-config" not in command


def test_a_tier_that_drafts_is_compared_with_a_vllm_that_does() -> None:
    drafting = ENGINE.model_copy(update={"speculation": "ngram"})
    words = baseline_command(Path("/models/small"), drafting, port=4321)
    config = json.loads(words[words.index("--speculative-config") + 1])
    assert (config["method"], config["num_speculative_tokens"]) == ("ngram", 8)


def test_the_engine_has_the_cores_of_the_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})

    assert engine_cores(ENGINE) == [0, 1]
    environment = engine_environment(ENGINE)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_other_servers_run_without_tierserves_plugin() -> None:
    plugins = engine_environment(ENGINE)["VLLM_PLUGINS"].split(",")
    assert "lora_filesystem_resolver" in plugins
    assert "tierserve" not in plugins
    installed = [plugin.name for plugin in entry_points(group="vllm.general_plugins")]
    assert sorted(installed) == sorted([*plugins, "tierserve"])


def test_our_config_is_the_profile_without_the_reasoning_tier() -> None:
    profile = load_profile("local-cpu")
    config = chat_only_config(profile, Path("/models/small"), ENGINE, slots=32)
    web, chat = config["applications"]

    assert (web["name"], web["args"]) == ("web", {"tiers": ["chat"]})
    assert tier_args(chat["args"]).engine == ENGINE
    assert tier_args(chat["args"]).model == "/models/small"
    settings = chat["deployments"][0]["user_config"]
    assert settings["admission"] == {"max_running_sequences": 32, "max_queued_requests": 32}
    assert len(profile["applications"]) == 3


@pytest.fixture
def busy_server() -> Iterator["subprocess.Popen[bytes]"]:
    """A marked process with a child that hides its mark, as processes with a title do."""
    child = "while True: pass"
    parent = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], env={{}});"
        "print('up', flush=True); time.sleep(60)"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", parent], env={RUN_ID_VARIABLE: "a-run"}, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    server.stdout.readline()
    yield server
    for process in server_processes("a-run"):
        process.kill()
    server.wait()
    server.stdout.close()


def test_a_servers_cpu_time_counts_its_whole_tree(busy_server: "subprocess.Popen[bytes]") -> None:
    processes = server_processes("a-run")
    (child,) = psutil.Process(busy_server.pid).children()

    before_s = cpu_s(processes)
    while cpu_s([child]) < 0.2:
        pass

    assert {process.pid for process in processes} == {busy_server.pid, child.pid}
    assert cpu_s(processes) > before_s


def test_a_frozen_server_uses_no_cpu_and_goes_on_afterwards(
    busy_server: "subprocess.Popen[bytes]",
) -> None:
    (child,) = psutil.Process(busy_server.pid).children()

    with frozen(["a-run"]):
        # A running process stops when it next enters the kernel.
        while child.status() != psutil.STATUS_STOPPED:
            pass
        assert busy_server.poll() is None

    assert child.status() != psutil.STATUS_STOPPED


@pytest.mark.parametrize(
    ("title", "part"),
    [
        ("api_server", "server"),
        ("ray::ServeReplica:chat:chat", "server"),
        ("ray::ServeReplica:web:web", "ray"),
        ("haproxy", "haproxy"),
        ("ray::HAProxyManager", "ray"),
        ("raylet", "ray"),
        ("supervisor", "ray"),
        ("", "ray"),
    ],
)
def test_a_process_is_part_of_what_its_title_says(title: str, part: str) -> None:
    assert part_of(role_of_title(title)) == part
    assert part_of("engine chat") == part_of("engine") == "engine"


def test_vllms_own_server_is_known_by_its_module() -> None:
    program = "print('started', flush=True); input()"
    command = [sys.executable, "-c", program, "-m", "vllm.entrypoints.openai.api_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()  # a process that has just begun has no command line yet
        assert title_of(psutil.Process(server.pid)) == "api_server"
        server.communicate(b"\n")


class Named:
    """A process as psutil has it."""

    def __init__(self, *command: str, parent: "Named | None" = None) -> None:
        self.command, self.above = command, parent

    def cmdline(self) -> list[str]:
        return [*self.command]

    def parent(self) -> "Named | None":
        return self.above


@pytest.mark.parametrize(
    ("parent", "role"),
    [
        ((sys.executable, "-m", "vllm.entrypoints.openai.api_server"), "engine"),
        (("ray::ServeReplica:chat:chat", ""), "engine chat"),
        ((sys.executable, "-u", "/ray/dashboard/dashboard.py"), "other"),
        (None, "other"),
    ],
)
def test_an_engine_without_a_title_is_known_by_its_parent(
    parent: tuple[str, ...] | None, role: str
) -> None:
    spawned = (sys.executable, "-B", "-c", "from multiprocessing.spawn import spawn_main; ...")
    above = None if parent is None else Named(*parent)
    assert role_of(cast("psutil.Process", Named(*spawned, parent=above))) == role
    if role != "other":
        titled = cast("psutil.Process", Named("VLLM::EngineCore", "", parent=above))
        assert role_of(titled) == role


def test_the_parts_are_the_whole(busy_server: "subprocess.Popen[bytes]") -> None:
    run_id = psutil.Process(busy_server.pid).environ()[RUN_ID_VARIABLE]
    before = cpu_by_part_s(run_id)
    whole = cpu_s(server_processes(run_id))
    assert before.keys() == {"ray"}
    assert sum(before.values()) <= whole <= sum(cpu_by_part_s(run_id).values())
