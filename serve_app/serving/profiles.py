"""Which Serve config file fits this machine, and what `make serve` puts into it."""

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

DEPLOY_DIR = Path(__file__).resolve().parents[2] / "deploy"
PROFILES = ("local-cpu", "t4", "rtx4090", "single-gpu")


class ProfileError(ValueError):
    """The profile cannot be used; the message says what to do."""


def find_profile(gpu_names: Sequence[str]) -> str:
    """The profile for a machine with these cards, named as nvidia-smi names them."""
    if not gpu_names:
        return "local-cpu"
    if len(gpu_names) > 1 and all(re.search(r"\bT4$", name) for name in gpu_names):
        return "t4"
    if len(gpu_names) > 1 and all(re.search(r"RTX 4090$", name) for name in gpu_names):
        return "rtx4090"
    return "single-gpu"


def installed_gpus() -> list[str]:
    """Names of this machine's NVIDIA cards; none if the driver does not answer."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def load_profile(name_or_path: str) -> dict[str, Any]:
    """The Serve config of a named profile, or of a file."""
    is_name = name_or_path in PROFILES
    path = DEPLOY_DIR / f"{name_or_path}.yaml" if is_name else Path(name_or_path)
    if not path.is_file():
        raise ProfileError(
            f"There is no profile '{name_or_path}': choose one of {', '.join(PROFILES)}, "
            "or give the path of a Serve config file."
        )
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as fault:
        raise ProfileError(f"{path} is no valid YAML: {fault}") from fault
    if not isinstance(config, dict) or not config.get("applications"):
        raise ProfileError(f"{path} is no Serve config file: it has no applications.")
    return config


def with_http_port(config: Mapping[str, Any], port: int) -> dict[str, Any]:
    """The same config, listening on `port`."""
    changed = deepcopy(dict(config))
    changed["http_options"] = {**(changed.get("http_options") or {}), "port": port}
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
    """`NAME=value` lines, values quoted as for a shell; blank lines and comments say nothing."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ProfileError(f"line {number} is no NAME=value: {stripped!r}")
        try:
            words = shlex.split(value)
        except ValueError as fault:
            raise ProfileError(f"line {number}: {fault}: {stripped!r}") from fault
        if len(words) > 1:
            raise ProfileError(f"line {number}: quote a value of several words: {stripped!r}")
        values[name] = "".join(words)
    return values
