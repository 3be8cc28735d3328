"""Which config file fits a machine, and that the files in deploy/ say what they must."""

from pathlib import Path

import pytest
import yaml

from serve_app.local import profiles
from serve_app.local.profiles import ServeConfigError
from serve_app.nvidia import MIB, DriverGpu

T4, RTX_4090, LAPTOP = "Tesla T4", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090 Laptop GPU"


@pytest.mark.parametrize(
    ("names", "memory_mib", "profile"),
    [
        ([], 0, "local-cpu"),
        ([T4], 15360, "single-gpu"),
        ([RTX_4090], 24564, "single-gpu"),
        ([T4, T4], 15360, "t4"),
        (["NVIDIA T4", "NVIDIA T4"], 15360, "t4"),
        ([RTX_4090] * 4, 24564, "rtx4090"),
        ([T4, RTX_4090], 15360, "mixed"),
        # These carry labels of their own in Ray, which the profile's selector does not match.
        ([LAPTOP] * 2, 16384, "single-gpu"),
        (["NVIDIA A100-SXM4-40GB"] * 2, 40960, "single-gpu"),
        (["NVIDIA GeForce RTX 3060"], 12288, "single-gpu"),
        (["NVIDIA GeForce RTX 2060"], 6144, "gpu-6gb"),
        (["NVIDIA GeForce RTX 3080"], 10240, "gpu-6gb"),
    ],
)
def test_the_profile_follows_the_gpus(names: list[str], memory_mib: int, profile: str) -> None:
    gpus = [DriverGpu("0", "", name, memory_bytes=memory_mib * MIB) for name in names]
    assert profiles.find_profile(gpus) == profile


def test_a_gpu_whose_memory_is_not_known_is_taken_for_a_large_one() -> None:
    assert profiles.find_profile([DriverGpu("0", "", "NVIDIA L4")]) == "single-gpu"


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_each_profile_holds_the_web_application_and_its_tiers(name: str) -> None:
    config = profiles.load_profile(name)
    routes = {app["name"]: app["route_prefix"] for app in config["applications"]}
    expected = {"web": "/", "chat": "/api/chat", "reasoning": "/api/reasoning"}
    if name == "gpu-6gb":
        # Two engines do not fit there: tests/engine/models/test_profile_memory.py has the sum.
        del expected["reasoning"]
    assert routes == expected
    for app in config["applications"]:
        assert [deployment["name"] for deployment in app["deployments"]] == [app["name"]]
    assert profiles.tier_routes(config) == {k: v for k, v in routes.items() if k != "web"}
    assert len(profiles.models_of(config)) == 1


def test_only_the_port_of_a_profile_is_changed() -> None:
    config = profiles.load_profile("local-cpu")
    changed = profiles.with_http_port(config, 9999)
    assert changed["http_options"] == {"host": "127.0.0.1", "port": 9999}
    assert config["http_options"]["port"] == 8000
    changed["http_options"]["port"] = 8000
    assert changed == config
    wide = profiles.with_http_port(config, 9999, host="10.0.0.1")
    assert wide["http_options"] == {"host": "10.0.0.1", "port": 9999}


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "choose one of local-cpu"), ("a: [", "no valid YAML"), ("a: 1", "no applications")],
)
def test_a_profile_that_is_none_is_explained(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "p.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ServeConfigError, match=message):
        profiles.load_profile(str(file))


def test_an_env_file_is_names_values_and_comments() -> None:
    text = "# why\nA=1\n\n  B=x=y \nC='x y'\nD=\n"
    assert profiles.read_env_file(text) == {"A": "1", "B": "x=y", "C": "x y", "D": ""}
    with pytest.raises(ServeConfigError, match="line 2"):
        profiles.read_env_file("A=1\nexport B=2\n")
    for wrong in ("A=1\nB=x y", "A=1\nB='x"):
        with pytest.raises(ServeConfigError, match="line 2"):
            profiles.read_env_file(wrong)


def test_every_line_of_the_runtime_environment_has_a_reason() -> None:
    text = (profiles.DEPLOY_DIR / "runtime.env").read_text()
    values = profiles.read_env_file(text)
    assert values["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert values["RAY_AUTH_MODE"] == "token"
    for block in text.strip().split("\n#"):
        assert block.startswith(("#", " ")), block


# Of the two ways to set the interval, Ray 2.60 reads the deprecated one only.
@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")
def test_the_deploy_files_are_valid_for_ray() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    for name in profiles.PROFILES:
        text = (profiles.DEPLOY_DIR / f"{name}.yaml").read_text()
        schema.ServeDeploySchema.model_validate(yaml.safe_load(text))
