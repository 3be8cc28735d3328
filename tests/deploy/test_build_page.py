"""When the page is built, and what is said where it cannot be."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import build_page

PYTHON = Path(sys.executable)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources of a page of its own, with nothing built."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.ts").write_text("export {};")
    (tmp_path / "package-lock.json").write_text("{}")
    for name, path in {
        "PAGE": tmp_path,
        "DIST": tmp_path / "dist",
        "STAMP": tmp_path / "dist" / "sources.sha256",
        "FAILED": tmp_path / "node_modules" / ".tierserve-failed",
    }.items():
        monkeypatch.setattr(build_page, name, path)
    return tmp_path


def builds(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[float]:
    """The builds from here on, each of which does `act`."""
    made: list[float] = []

    def build(until_s: float) -> None:
        made.append(until_s)
        act()

    monkeypatch.setattr(build_page, "build", build)
    return made


def test_the_page_is_built_once_for_the_same_sources(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = builds(monkeypatch, lambda: (page / "dist").mkdir(exist_ok=True))
    assert [build_page.main([]) for _ in range(3)] == [0, 0, 0]
    assert len(made) == 1
    (page / "src" / "main.ts").write_text("export const changed = true;")
    assert build_page.main([]) == 0
    assert len(made) == 2


def test_a_registry_that_did_not_answer_is_not_asked_at_every_setup(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise build_page.PageBuildError("npm ci took more than 120 s")

    made = builds(monkeypatch, fail)
    assert [build_page.main([]) for _ in range(3)] == [build_page.NOT_BUILT] * 3
    assert len(made) == 1
    said = capsys.readouterr()
    assert "all else works without it: npm ci took more than 120 s" in said.err
    assert build_page.main(["--now"]) == build_page.NOT_BUILT
    assert len(made) == 2


def test_a_step_that_hangs_is_ended_with_all_that_it_has_started(page: Path) -> None:
    began_s = time.monotonic()
    sleeps = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    hangs = f"import subprocess, sys; subprocess.run({sleeps})"
    with pytest.raises(build_page.PageBuildError, match="took more than"):
        build_page.run([PYTHON, "-c", hangs], time.monotonic())
    assert time.monotonic() - began_s < 20


def test_a_step_that_fails_says_what_it_wrote(page: Path) -> None:
    with pytest.raises(build_page.PageBuildError, match="no such package"):
        build_page.run([PYTHON, "-c", "print('no such package'); exit(1)"], time.monotonic() + 30)
