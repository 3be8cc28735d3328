"""deploy/Dockerfile: hadolint, and what its steps copy."""

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "deploy/Dockerfile"


def steps(word: str) -> list[str]:
    structure = DockerfileParser(str(DOCKERFILE)).structure
    return [step["value"] for step in structure if step["instruction"] == word]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_all_that_is_copied_is_there_and_sent_to_the_builder() -> None:
    sent = {
        path
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
        for path in REPOSITORY.glob(line[1:])
    }
    for kind in ("cpu", "gpu"):
        for value in steps("COPY"):
            if value.startswith("--from="):
                continue
            *patterns, _ = shlex.split(value.replace("${KIND}", kind))
            for pattern in patterns:
                found = set(REPOSITORY.glob(pattern))
                assert found, f"COPY {pattern}: nothing is there"
                kept = {path for path in found if not sent & {path, *path.parents}}
                assert not kept, f".dockerignore keeps {kept}"


def test_ray_starts_haproxy_through_our_wrapper() -> None:
    """A path that leads nowhere would keep Serve's proxies from starting."""
    (variables,) = steps("ENV")[-1:]
    assert "RAY_SERVE_HAPROXY_BINARY_PATH=/opt/tierserve/bin/tierserve-haproxy" in variables.split()
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert "tierserve-haproxy" in scripts


def test_the_base_is_named_by_its_digest_and_the_user_by_number() -> None:
    outside = [
        value for value in steps("FROM") if value.split()[0] not in {"base", "build", "scratch"}
    ]
    assert outside == ["${BASE}@${BASE_DIGEST} AS base"]
    assert steps("USER") == ["1000:100"]
