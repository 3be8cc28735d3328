"""What holds for every suite: the examples of property tests, which tests are slow, and a last line
that counts what did not run.

Properties are tested on the same examples each time and without a deadline: a busy machine is no
error of the code.
"""

import gc
import os
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

HERE = Path(__file__).parent
# Simulated days, whole processes, and limits of HAProxy that are waited for: more than half of the
# unit tests' time. `make check` leaves them out, `make test` runs them.
SLOW = (
    "access/test_ledger_kill.py",
    "api/test_kept_shares.py",
    "api/test_deadlines_forwarded.py",
    "api/test_deadlines_under_load.py",
    "api/test_kept_stream_bounds.py",
    "api/test_kept_streams.py",
    "api/test_relay_cuts.py",
    "api/test_tier_streams.py",
    "clients/test_with_keys.py",
    "core/access/test_ledger_machine.py",
    "engine/grammar/test_sandbox.py",
    "loadtest/load/test_interrupt.py",
    "loadtest/load/test_run.py",
    "loadtest/simulation/test_cell.py",
    "loadtest/simulation/test_commands.py",
    "loadtest/simulation/test_flood.py",
    "loadtest/simulation/test_gate_promise.py",
    "loadtest/simulation/test_initial.py",
    "loadtest/simulation/test_policies.py",
    "loadtest/simulation/test_profile_range.py",
    "loadtest/simulation/test_scoreboard.py",
    "loadtest/simulation/test_static_set.py",
    "loadtest/soak/test_course.py",
    "loadtest/soak/test_judge.py",
    "local/test_supervisor.py",
    "serving/test_drained_tier_streams.py",
    "serving/test_haproxy_restart.py",
    "serving/test_haproxy_wrapper.py",
    "serving/test_moved_grants.py",
    "serving/test_moved_streams.py",
    "serving/test_moved_tier_streams.py",
)
# Of the slow ones those that only compute, or wait for processes as long as these may take. The
# others judge times: `make test` runs them with nothing beside them but what gives way.
COMPUTED = (
    "api/test_deadlines_under_load.py",
    "clients/test_with_keys.py",
    "core/access/test_ledger_machine.py",
    "engine/grammar/test_closing.py",
    "loadtest/simulation",
    "loadtest/soak/test_judge.py",
    "page",
    "test_vllm_names.py",
)
# With torch behind them vLLM and transformers take seconds to import: where a file is one worker's,
# these folders are the same one's.
WITH_TORCH = ("engine", "loadtest/studies/micro_r1", "loadtest/studies/micro_r2")
# Set to 1: a test that did not run is a failure.
REQUIRE_ALL_VARIABLE = "REQUIRE_ALL"
_SLOW_FILES = frozenset(HERE / name for name in SLOW)

settings.register_profile(
    "steady",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Garbage is looked for in what tests make, and not again and again in all modules and tests,
    which are there to the end: that took a quarter of the time of their import."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where the slow tests are left out, their files are not even imported."""
    left_out = "not slow" in config.option.markexpr
    return True if left_out and collection_path in _SLOW_FILES else None


class _ByFile(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "torch" if any(f"/{folder}/" in f"/{file}" for folder in WITH_TORCH) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return _ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    named = (*SLOW, *COMPUTED, *WITH_TORCH)
    if missing := [name for name in named if not (HERE / name).exists()]:
        raise pytest.UsageError(f"tests/conftest.py names what is not there: {missing}")
    computed = {HERE / name for name in COMPUTED}
    for item in items:
        if item.path in _SLOW_FILES:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not computed & {item.path, *item.path.parents}:
            item.add_marker(pytest.mark.timed)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Outermost, and so below pytest's own last line."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    line = did_not_run(_reason(report) for report in reporter.stats.get("skipped", []))
    if not line:
        return
    if os.environ.get(REQUIRE_ALL_VARIABLE) == "1":
        line = f"failed, as {REQUIRE_ALL_VARIABLE}=1 asks for all: {line}"
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    reporter.write_line(line, yellow=True)


def did_not_run(reasons: Iterable[str]) -> str:
    """One line, the most frequent reason first; empty where all ran."""
    counted = Counter(reasons).most_common()
    listed = "; ".join(f"{count} {reason}" for reason, count in counted)
    return f"{sum(count for _, count in counted)} did not run: {listed}" if counted else ""


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """A skip is reported with its file, line and reason."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
