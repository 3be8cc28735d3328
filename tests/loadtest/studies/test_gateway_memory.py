"""What streams of one process of /v1 take of memory, measured for real in seconds."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest.__main__ import parse
from loadtest.studies.gateway_memory import KINDS, run, table

META: dict[str, Any] = {
    **{"date": "2026-01-02T03:04:05", "commit": "abc"},
    "machine": {"cores": 2, "cpu": "X"},
}


@pytest.mark.slow
def test_a_short_run_weighs_each_kind_of_streams(tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    argv = ["gateway-memory", "--streams", "3", "--events", "5", "--rounds", "1"]
    argv += ["--out", str(out)]
    assert run(parse(argv), argv, Console(quiet=True)) == 0
    kinds = json.loads(out.read_text())["kinds"]
    assert [each["name"] for each in kinds] == [kind.name for kind in KINDS]
    assert all(each["idle_mib"][0] > 1 for each in kinds)


def test_the_table_has_the_bound_beside_what_was_measured() -> None:
    kinds = [
        {"name": "none", "bound_mib": None, "idle_mib": [62.2], "added_mib": [8.0]},
        {"name": "kept", "bound_mib": 128, "idle_mib": [62.2, 61.7], "added_mib": [80.4, 79.6]},
    ]
    document = {"meta": META, "streams": 500, "events": 512, "kinds": kinds}
    _, _, none, kept, _, caption = table(document).splitlines()
    assert none == "| none | 62 MiB | 8 to 8 MiB |  |"
    assert kept == "| kept | 62 MiB | 80 to 80 MiB | 128 MiB |"
    assert "500 streams at once of 512 events" in caption
