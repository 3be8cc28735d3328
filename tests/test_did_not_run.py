"""The last line of every suite, and what REQUIRE_ALL=1 makes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HERE, REQUIRE_ALL_VARIABLE, did_not_run

SUITE = """
import pytest

def test_that_runs() -> None:
    pass

@pytest.mark.skipif(True, reason="no nginx: apt install nginx-light")
@pytest.mark.parametrize("number", [1, 2])
def test_that_needs_nginx(number: int) -> None:
    pass
"""


def test_reasons_are_counted_the_most_frequent_first() -> None:
    line = did_not_run(["no nginx", "no network", "no network"])
    assert line == "3 did not run: 2 no network; 1 no nginx"


def test_where_all_ran_nothing_is_said() -> None:
    assert did_not_run([]) == ""


@pytest.mark.parametrize(("require_all", "status"), [("", 0), ("1", 1)])
def test_the_last_line_counts_them_and_require_all_fails(
    tmp_path: Path, require_all: str, status: int
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    conftest = (
        (HERE / "conftest.py")
        .read_text()
        .replace("HERE = Path(__file__)", f"HERE = Path({str(HERE / 'x')!r})")
    )
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_suite.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=os.environ | {REQUIRE_ALL_VARIABLE: require_all, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1].endswith(
        "2 did not run: 2 no nginx: apt install nginx-light"
    )
    assert done.returncode == status
