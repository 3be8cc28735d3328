"""Which Serve config file fits this machine, and what `tierserve serve` puts into it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from serve_app.core.placement import hardware
from serve_app.nvidia import MIB, DriverGpu

T4 = hardware.T4.accelerator_type
RTX_4090 = hardware.RTX_4090.accelerator_type
DEPLOY_DIR = Path(__file__).resolve().parents[2] / "deploy"
PROFILES = ("local-cpu", "t4", "rtx4090", "mixed", "single-gpu", "gpu-6gb")
# Below it the two engines of single-gpu do not fit: each takes 0.44 of what CUDA sees, and needs
# 3.31 GiB of weights, 1.3 of overhead and 0.11 for one sequence (core/placement/fit.py).
LEAST_SHARED_BYTES = 12_000 * MIB


class ServeConfigError(ValueError):
    """The profile cannot be used; the message says what to do."""


def find_profile(gpus: Sequence[DriverGpu]) -> str:
    """The profile for these GPUs."""
    if not gpus:
        return "local-cpu"
    types = {gpu.accelerator_type for gpu in gpus}
    if len(gpus) > 1 and types <= {T4, RTX_4090}:
        return "mixed" if len(types) > 1 else "t4" if T4 in types else "rtx4090"
    smallest = min(gpu.memory_bytes or LEAST_SHARED_BYTES for gpu in gpus)
    return "single-gpu" if smallest >= LEAST_SHARED_BYTES else "gpu-6gb"


def load_profile(name_or_path: str) -> dict[str, Any]:
    """The Serve config of a named profile, or of a file."""
    is_name = name_or_path in PROFILES
    path = DEPLOY_DIR / f"{name_or_path}.yaml" if is_name else Path(name_or_path)
    if not path.is_file():
        raise ServeConfigError(
            f"There is no profile '{name_or_path}': choose one of {', '.join(PROFILES)}, "
            "or give the path of a Serve config file."
        )
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ServeConfigError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(config, dict) or not config.get("applications"):
        raise ServeConfigError(f"{path} is no Serve config file: it has no applications.")
    return config


def with_http_port(
    config: Mapping[str, Any], port: int, *, host: str | None = None
) -> dict[str, Any]:
    """The same config, listening on `port`, and on `host` where one is given."""
    changed = deepcopy(dict(config))
    address: dict[str, Any] = {"port": port} if host is None else {"port": port, "host": host}
    changed["http_options"] = {**(changed.get("http_options") or {}), **address}
    return changed


def http_host(config: Mapping[str, Any]) -> str:
    """The address that the config listens on."""
    return (config.get("http_options") or {}).get("host") or "0.0.0.0"


def models_of(config: Mapping[str, Any]) -> list[str]:
    """The models that the config names, each once, in order."""
    named = [(app.get("args") or {}).get("model") for app in config["applications"]]
    return list(dict.fromkeys(model for model in named if model))


def tier_routes(config: Mapping[str, Any]) -> dict[str, str]:
    """Route prefix by tier."""
    return {
        app["name"]: app["route_prefix"]
        for app in config["applications"]
        if "tier" in (app.get("args") or {})
    }


def read_env_file(text: str) -> dict[str, str]:
    """`NAME=value` lines, values quoted as for a shell; blank lines and comments are skipped."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ServeConfigError(f"line {number} is no NAME=value: {stripped!r}")
        try:
            parts = shlex.split(value)
        except ValueError as error:
            raise ServeConfigError(f"line {number}: {error}: {stripped!r}") from error
        if len(parts) > 1:
            raise ServeConfigError(f"line {number}: quote a value of several words: {stripped!r}")
        values[name] = "".join(parts)
    return values
