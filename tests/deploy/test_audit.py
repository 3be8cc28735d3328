"""The audit of the locks: what counts as asked, and the exit status."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy import audit
from deploy.audit import FOUND, LOCKS, NONE_FOUND, NOT_ASKED, pins

LOCK = "aiohttp==3.14.5\nvllm-cpu==0.32.0\ntorch==2.13.0+cpu\n"


def answering(
    asked: list[tuple[str, list[str]]],
    *,
    vulnerable: Mapping[str, str] | None = None,
    skipped: Mapping[str, set[str]] | None = None,
    silent: tuple[str, ...] = (),
) -> Callable[[Path, str], tuple[str, str]]:
    def run(file: Path, service: str) -> tuple[str, str]:
        names = pins(file.read_text())
        asked.append((service, sorted(names)))
        if service in silent:
            return "", "ConnectionError: cannot resolve"
        packages: list[dict[str, Any]] = []
        for name, version in names.items():
            if name in (skipped or {}).get(service, set()):
                packages.append({"name": name, "skip_reason": "not found on PyPI"})
                continue
            ids = (vulnerable or {}).get(name)
            vulns = [{"id": ids, "aliases": ["CVE-1"], "fix_versions": ["9"]}] if ids else []
            packages.append({"name": name, "version": version, "vulns": vulns})
        return json.dumps({"dependencies": packages}), ""

    return run


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.txt"
    file.write_text(LOCK)
    return file


def test_a_build_is_asked_for_as_the_release_it_is_built_from() -> None:
    assert pins(LOCK) == {"aiohttp": "3.14.5", "vllm": "0.32.0", "torch": "2.13.0"}


def test_every_line_of_the_locks_is_a_pin() -> None:
    for lock in LOCKS:
        lines = [line for line in lock.read_text().splitlines() if line and line[0] != "#"]
        assert len(pins(lock.read_text())) == len(lines)


def test_all_asked_and_nothing_found(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, list[str]]] = []
    assert audit.main(answering(asked), [lock]) == NONE_FOUND
    assert asked == [("pypi", ["aiohttp"]), ("pypi", ["torch", "vllm"])]
    assert "0 known vulnerabilities in the 3 packages" in capsys.readouterr().out


def test_what_is_found_is_named_with_its_fix(
    lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(answering([], vulnerable={"torch": "PYSEC-1"}), [lock]) == FOUND
    assert "torch 2.13.0: PYSEC-1, CVE-1; fixed in 9" in capsys.readouterr().out


def test_the_second_service_is_asked_for_what_the_first_does_not_know(lock: Path) -> None:
    asked: list[tuple[str, list[str]]] = []
    assert audit.main(answering(asked, skipped={"pypi": {"torch"}}), [lock]) == NONE_FOUND
    assert ("osv", ["torch"]) in asked


def test_nothing_asked_is_not_nothing_found(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, list[str]]] = []
    run = answering(asked, skipped={"pypi": {"aiohttp"}}, silent=("osv",))
    assert audit.main(run, [lock, lock]) == NOT_ASKED
    # A service that is not there is asked for one package, once.
    assert asked == [("pypi", ["aiohttp"]), ("osv", ["aiohttp"])]
    said = capsys.readouterr().out
    assert "NOT AUDITED" in said
    assert "known vulnerabilities" not in said
    assert "PyPI's JSON API could not be reached: not found on PyPI" in said
    assert "OSV could not be reached: ConnectionError" in said


def test_part_asked_is_not_all_asked(lock: Path) -> None:
    run = answering([], skipped={"pypi": {"torch"}, "osv": {"torch"}})
    assert audit.main(run, [lock]) == NOT_ASKED
