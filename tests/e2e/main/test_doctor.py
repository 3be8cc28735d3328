"""The doctor beside a service that runs, and takes the memory that another one would need."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.e2e.site import Site


def look(site: Site, *words: str) -> tuple[int, str]:
    """Exit status and output, with nothing in the environment that names a cluster."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-m", "serve_app", "doctor", "--port", str(site.cluster.port), *words],
        capture_output=True, text=True, timeout=120, check=False, env=env,
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr


def test_it_looks_at_the_running_service_and_finds_no_fault(site: Site) -> None:
    status, text = look(site, "--json")
    assert status == 0, text
    report: dict[str, Any] = json.loads(text)
    assert report["findings"] == []
    assert report["service"]["answers"]
    assert {tier["tier"]: tier["ready"] for tier in report["service"]["tiers"]} == {
        "chat": True,
        "reasoning": True,
    }
    assert {tier["name"]: tier["replicas_placed"] for tier in report["tiers"]} == {
        "web": 1,
        "chat": 1,
        "reasoning": 1,
    }


def test_a_person_reads_how_each_tier_is_now(site: Site) -> None:
    status, text = look(site)
    assert status == 0, text
    assert "The service at http://127.0.0.1:" in text
    assert "now: ready, 0 of" in text
