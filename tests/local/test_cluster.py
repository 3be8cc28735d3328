"""The launcher's decisions: ports, environment, the plan, what a failure says, the logs."""

import os
import socket
import types
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.tier import refuse_unknown_variables
from serve_app.local import launcher, ports, ray_head
from serve_app.local.cluster import LocalCluster
from serve_app.local.exposure import Exposure
from serve_app.local.ports import free_port_block, free_ports, holder_of, is_free
from serve_app.local.ready_notice import who_gets_in
from serve_app.local.serve_api import AppStatus, ServeApi, failure_reason
from serve_app.local.worker_logs import WorkerLogs, error_tail, parse_line
from serve_app.serving import ray_internals
from serve_app.serving.haproxy_wrapper import (
    BODY_TIMEOUT_VARIABLE,
    HEADER_TIMEOUT_VARIABLE,
    HOST_VARIABLE,
)


def make_cluster(**options: Any) -> LocalCluster:
    return LocalCluster(port=8123, **options)


def test_a_cluster_has_ports_folder_and_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somebody-elses:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "somebody-elses")
    one, other = make_cluster(), make_cluster()
    assert one.run_id != other.run_id
    assert "RAY_ADDRESS" not in one.env
    assert "RAY_AUTH_TOKEN" not in one.env
    assert one.client_env["RAY_ADDRESS"] != other.client_env["RAY_ADDRESS"]
    assert one.env["RAY_AUTH_TOKEN_PATH"].startswith(str(one.run_dir))
    for taken in ("8404", "9101", "8500", "6379", "8265", "10001"):
        assert taken not in {v for n, v in one.env.items() if n.endswith("PORT")}


def test_what_the_caller_sets_wins_over_the_file() -> None:
    cluster = make_cluster(environment={"RAY_worker_niceness": "5", "TIERSERVE_MODEL": "m"})
    assert cluster.env["RAY_worker_niceness"] == "5"
    assert cluster.env["TIERSERVE_MODEL"] == "m"
    assert make_cluster().env["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert make_cluster(haproxy=False).env["RAY_SERVE_ENABLE_HA_PROXY"] == "0"


def test_haproxy_is_started_through_the_wrapper_which_opens_the_http_port() -> None:
    env = make_cluster(http_host="0.0.0.0").env
    wrapper = Path(env["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert wrapper.is_absolute()
    assert os.access(wrapper, os.X_OK)
    assert env[HOST_VARIABLE] == "0.0.0.0"
    assert make_cluster().env[HOST_VARIABLE] == "127.0.0.1"
    # Otherwise the application refuses to start.
    refuse_unknown_variables(env | {HEADER_TIMEOUT_VARIABLE: "1", BODY_TIMEOUT_VARIABLE: "1"})


def deployed_host(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """What Serve, and with it each replica, is to listen on."""
    deployed: list[dict[str, Any]] = []
    monkeypatch.setattr(ServeApi, "deploy", lambda _, config: deployed.append(config))
    monkeypatch.setattr(cluster, "_is_ready", lambda _path: True)
    cluster.deploy({"http_options": {"host": "0.0.0.0", "port": 1}, "applications": []})
    return deployed[0]["http_options"]["host"]


def test_only_haproxy_listens_where_the_profile_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deployed_host(make_cluster(http_host="0.0.0.0"), monkeypatch) == "127.0.0.1"
    without = make_cluster(http_host="0.0.0.0", haproxy=False)
    assert HOST_VARIABLE not in without.env
    assert deployed_host(without, monkeypatch) == "0.0.0.0"
    monkeypatch.setattr(ray_head, "haproxy_wrapper", lambda: None)
    assert deployed_host(make_cluster(http_host="0.0.0.0"), monkeypatch) == "0.0.0.0"


def test_an_open_port_is_said_to_be_open() -> None:
    assert who_gets_in(Exposure("127.0.0.1"), 8000) == []
    everywhere = " ".join(who_gets_in(Exposure("0.0.0.0"), 8000))
    assert "every address of this machine, port 8000" in everywhere
    assert "no key" in everywhere
    assert "10.0.0.1, port 8000" in " ".join(who_gets_in(Exposure("10.0.0.1"), 8000))


def test_serves_own_port_of_a_replica_is_where_the_nodes_ports_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Should it fail after an upgrade of Ray, see whether replica_port.py is still needed."""
    bound: list[str] = []
    module = types.SimpleNamespace(add_port_to_grpc_server=lambda _, address: bound.append(address))
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    assert ray_internals.patch_replica_grpc_port(module)
    assert ray_internals.patch_replica_grpc_port(module)
    module.add_port_to_grpc_server(None, "[::]:0")
    module.add_port_to_grpc_server(None, "10.0.0.1:7")
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.1")
    module.add_port_to_grpc_server(None, "[::]:0")
    assert bound == ["127.0.0.1:0", "10.0.0.1:7", "[::]:0"]
    assert not ray_internals.patch_replica_grpc_port(types.SimpleNamespace())


def test_haproxys_socket_fits_a_unix_path() -> None:
    node_id, pid_suffix = "f" * 56, ".4194304.tmp"
    socket_path = Path(make_cluster().env["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    assert len(f"{socket_path.parent}/{node_id}/{socket_path.name}{pid_suffix}") < 108


def test_a_taken_port_names_its_holder() -> None:
    port = free_ports(1)[0]
    assert is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        assert f"(process {os.getpid()})" in holder_of(port)
        with pytest.raises(launcher.CannotStartError, match=f"Port {port} is taken by .*PORT="):
            launcher.make_plan(port, "local-cpu", None)
    assert is_free(port)
    assert free_port_block(10) % 100 == 0


def test_a_port_that_somebody_will_listen_at_is_not_chosen_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ports, "_SINGLE_PORTS", range(20000, 20003))
    monkeypatch.setattr(ports, "is_free", lambda port, host: True)
    assert sorted(free_ports(2, reserved=(20001,))) == [20000, 20002]
    with pytest.raises(OSError, match="no 3 free ports"):
        free_ports(3, reserved=(20001,))


def test_the_plan_takes_the_models_absolute_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launcher, "LEAST_MEMORY_BYTES", 0)
    monkeypatch.setattr(launcher, "LEAST_SHARED_MEMORY_BYTES", 0)
    monkeypatch.delenv("TIERSERVE_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    port = free_ports(1)[0]
    assert launcher.make_plan(port, "local-cpu", "m").environment == {
        "TIERSERVE_MODEL": str(tmp_path / "m")
    }
    assert launcher.make_plan(port, "local-cpu", "smollm2").models == ("smollm2",)
    default = launcher.make_plan(port, "t4", None)
    assert default.environment == {}
    assert default.models == ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",)


def test_too_little_memory_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "LEAST_MEMORY_BYTES", 2**60)
    with pytest.raises(launcher.CannotStartError, match="GiB of memory are free"):
        launcher.make_plan(free_ports(1)[0], "local-cpu", None)


@pytest.mark.parametrize(
    ("status", "message", "fails"),
    [
        ("DEPLOYING", "", False),
        ("DEPLOYING", "A replica failed to start with exception. Retrying 2 more", True),
        ("DEPLOY_FAILED", "no such module", True),
        ("RUNNING", "an old replica failed to start", False),
    ],
)
def test_the_first_failure_ends_a_first_start(status: str, message: str, fails: bool) -> None:
    app = AppStatus("chat", status, message, {})
    assert (app.failure == message) is fails
    assert (app.failure is None) is not fails


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("no exception at all", "no exception at all"),
        (
            "Retrying. Error:\n\x1b[36mray::X\x1b[39m\n  File x\nRuntimeError: Traceback (most "
            "recent call last):\n  File y\nserve_app.engine.ModelNotFoundError: no model at 'z'\n",
            "serve_app.engine.ModelNotFoundError: no model at 'z'",
        ),
        (
            "pydantic_core.ValidationError: 1 validation error for TierArgs\nengine.x\n  Extra",
            "pydantic_core.ValidationError: 1 validation error for TierArgs\nengine.x\n  Extra",
        ),
    ],
)
def test_a_failure_is_reported_by_its_last_exception(message: str, reason: str) -> None:
    assert failure_reason(message) == reason


def test_worker_logs_give_each_whole_json_line_once(tmp_path: Path) -> None:
    out = tmp_path / "worker-1.out"
    out.write_text('plain\n{"a": 1}\n{"b":')
    logs = WorkerLogs(tmp_path)
    assert logs.new_lines() == ['{"a": 1}']
    with out.open("a") as stream:
        stream.write(" 2}\n")
    assert [parse_line(line) for line in logs.new_lines()] == [{"b": 2}]
    assert logs.new_lines() == []
    assert parse_line("{no json") == {}


def test_a_log_that_ray_renames_is_read_on_under_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, renamed = tmp_path / "worker-1-ffffffff-7.out", tmp_path / "worker-1-01000000-7.out"
    out.write_text('{"a": 1}\n')
    logs = WorkerLogs(tmp_path)
    assert logs.new_lines() == ['{"a": 1}']
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", lambda *_: [renamed])  # listed, and gone when it is opened
        assert logs.new_lines() == []
    out.rename(renamed)
    with renamed.open("a") as stream:
        stream.write('{"b": 2}\n')
    assert logs.new_lines() == ['{"b": 2}']


def test_the_error_tail_is_of_the_worker_that_failed_last(tmp_path: Path) -> None:
    assert error_tail(tmp_path) == []
    (tmp_path / "worker-1.err").write_text("old\n")
    os.utime(tmp_path / "worker-1.err", (1, 1))
    (tmp_path / "worker-2.err").write_text("one\ntwo\nthree\n")
    assert error_tail(tmp_path, lines=2) == ["two", "three"]
