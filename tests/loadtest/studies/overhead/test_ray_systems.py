"""Ray Serve's own ways get the engine of the bare server, and Ray's defaults around it."""

from pathlib import Path

import pytest

from loadtest.servers.systems import MeasurementError, engine_words
from loadtest.studies.overhead import ray_systems
from loadtest.studies.overhead.ray_systems import (
    check_ray_llm,
    engine_kwargs,
    llm_config,
    plain_cluster,
)
from serve_app.config.tier import EngineConfig

ENGINE = EngineConfig(max_model_len=1024, cpu_slice="0/2", extra_args={"async-scheduling": False})


def test_words_of_a_command_line_become_typed_arguments() -> None:
    words = ["--dtype", "auto", "--max-model-len", "1024", "--enforce-eager", "--seed", "0"]

    assert engine_kwargs([*words, "--no-async-scheduling"]) == {
        "dtype": "auto",
        "max_model_len": 1024,
        "enforce_eager": True,
        "seed": 0,
        "async_scheduling": False,
    }


def test_ray_serve_llm_gets_the_engine_arguments_of_the_baseline_server() -> None:
    config = llm_config(Path("/models/small"), ENGINE)
    words = engine_words(Path("/models/small"), ENGINE)

    assert config["model_loading_config"] == {"model_id": "chat", "model_source": "/models/small"}
    kwargs = config["engine_kwargs"]
    names = {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    # LLMConfig has fields of its own for the first two, and sets the third by itself.
    assert set(kwargs) == {name.removeprefix("no_") for name in names} - {
        "model", "served_model_name", "distributed_executor_backend",
    }  # fmt: skip
    assert kwargs["max_model_len"] == 1024
    assert kwargs["async_scheduling"] is False


def test_the_cluster_has_rays_defaults_and_the_engines_environment() -> None:
    cluster = plain_cluster(ENGINE)

    for tuned in (
        "RAY_SERVE_ENABLE_HA_PROXY",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S",
    ):
        assert tuned not in cluster.env
    assert cluster.env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert cluster.env["RAY_worker_niceness"] == "0"
    assert cluster.env["RAY_AUTH_MODE"] == "token"


def test_a_missing_package_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_systems.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MeasurementError, match=r"jsonref and pyarrow.*--systems"):
        check_ray_llm()
