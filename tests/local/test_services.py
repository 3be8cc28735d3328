"""Which `serve` runs here."""

import json
import os
from pathlib import Path
from typing import Any

from serve_app.local.ray_head import AUTH_FILE
from serve_app.local.services import (
    RECORD_FILE,
    LocalService,
    record_of_service,
    reported_tiers,
    running_services,
)


def put_service(root: Path, port: int, *, name: str = "ts-1", **changed: Any) -> Path:
    folder = root / name
    folder.mkdir()
    record = json.loads(record_of_service(port, "http://127.0.0.1:9"))
    (folder / RECORD_FILE).write_text(json.dumps(record | changed))
    (folder / AUTH_FILE).write_text("a-token\n")
    return folder


def test_services_whose_process_lives_are_found_by_port(tmp_path: Path) -> None:
    put_service(tmp_path, 8001, name="ts-1")
    folder = put_service(tmp_path, 8000, name="ts-2")
    found = running_services(tmp_path)
    assert [service.port for service in found] == [8000, 8001]
    assert found[0] == LocalService(8000, "http://127.0.0.1:9", os.getpid(), folder)
    assert found[0].token() == "a-token"


def test_what_a_service_left_behind_is_none(tmp_path: Path) -> None:
    put_service(tmp_path, 8000, name="ts-dead", pid=2**22 - 1)
    old = put_service(tmp_path, 8001, name="ts-same-number")
    os.utime(old / RECORD_FILE, (1, 1))
    put_service(tmp_path, 8002, name="ts-odd", pid="many")
    put_service(tmp_path, 8003, name="another")
    (tmp_path / "ts-empty").mkdir()
    assert running_services(tmp_path) == []


def test_a_service_that_does_not_answer_reports_no_tiers() -> None:
    assert reported_tiers(LocalService(9, "http://127.0.0.1:9", 1, Path("/nowhere"))) is None
