"""`tierserve bench scaling`: every policy on every case, for docs/scaling.md or your own traces."""

import argparse
import datetime
import json
import multiprocessing
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.errors import UserError
from loadtest.report.pages import write_section
from loadtest.report.results_file import META, REPOSITORY, commit, machine, write
from loadtest.simulation import option_types as types
from loadtest.simulation import options as common
from loadtest.simulation.options import POLICIES

if TYPE_CHECKING:
    from loadtest.simulation.cases import Case
    from loadtest.simulation.contest import Contest
    from loadtest.simulation.scoreboard import CaseRows, Played, PolicyRow, Summary

RESULTS = REPOSITORY / "loadtest" / "results" / "scaling.json"
PAGE = REPOSITORY / "docs" / "scaling.md"
KEPT = REPOSITORY / ".cache" / "scaling"
PLAN_TRIES = 30
ON_INTERRUPT = "Interrupted: what was played is kept."
DESCRIPTION = """\
Plays every scaling policy on every case in the simulator and writes one table: goodput by the
tiers' SLO, GPU-hours, cost, scale actions, TTFT p95. Each policy but ours is given hindsight: the
cheapest of its settings on that very trace whose goodput is at least ours (less a thousandth), or
the one with the best goodput where none has it; of Ray's 120 settings a coarse grid is played and
then the neighbours of the best. All begin with the replicas that the first two minutes need.

  ours               the server's scaling policy, as it is configured
  ray-default        Ray Serve's own, on ongoing requests
  waiting-threshold  a Kubernetes autoscaler on waiting requests, as KEDA feeds it
  llm-d              its workload variant autoscaler: queue and KV cache of each replica
  aibrix             its application-specific autoscaler: requests of each replica
  constant           the best constant count
  clairvoyant        the cheapest plan found by a search that knows the trace"""
EPILOG = """examples:
  all of it; writes loadtest/results/scaling.json and the table of docs/scaling.md:
    tierserve bench scaling
  your own traces (CSV, gzipped or not: arrival_s,input_tokens,output_tokens[,tier]):
    tierserve bench scaling --traces FOLDER --json out.json
  two cases, three policies:
    tierserve bench scaling --cases step-8x azure-x4 --policies ours ray-default constant

A file scaling.yaml in the folder may say of each file, by its name, on what it is played:
    my.csv.gz: {gpus: {T4: 12}, times: 4, rate: 1, tier: chat}
Without it the cluster has twice the T4 that the busiest moment keeps busy. What has been played is
kept and not played again: a run that was stopped goes on where it was. `python -m loadtest
fetch-traces` gets public traces in this form."""
HELP_FORMAT = common.HelpFormatter


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--traces", type=Path, metavar="DIR", help="play this folder's traces, not the own cases")
    add("--cases", nargs="+", metavar="NAME", help="only these cases, or files of --traces")
    add(
        "--policies",
        "--laws",
        nargs="+",
        choices=POLICIES,
        default=POLICIES,
        metavar="POLICY",
        help="only these",
    )
    add("--jobs", type=types.count, default=os.cpu_count() or 1, help="processes")
    add("--json", type=Path, metavar="OUT", help="write there, and leave docs/scaling.md alone")
    add("--plan-tries", type=types.count, default=PLAN_TRIES, help="plans that a search may play")
    add("--kept", type=Path, default=KEPT, metavar="DIR", help="where what was played is kept")
    add(
        "--trust-kept",
        action="store_true",
        help="take what was played of the other policies even if the simulator has changed "
        "since: for work on the server's scaling policy alone",
    )
    add(
        "--others",
        type=Path,
        metavar="FILE",
        help="play ours alone, and take the rows of the other policies from this results file: "
        "for a new table after work on the server's scaling policy alone",
    )
    add("--list", action="store_true", help="name the cases and end")
    common.add_cluster(parser)


@dataclass(frozen=True, slots=True)
class Task:
    """A policy on a case."""

    case: str
    policy: str
    needed: float


def run(options: argparse.Namespace, argv: Sequence[str], console: Console) -> int:
    from loadtest.simulation.inputs import checked_outputs

    checked_outputs(json=options.json)
    names = _names(options)
    unknown = sorted(set(options.cases or ()) - set(names))
    if unknown:
        raise UserError(f"--cases: {', '.join(unknown)} is none of {', '.join(names)}")
    if options.list:
        console.print("\n".join(names))
        return 0
    others = None if options.others is None else _results(options.others)
    board = Board(options, argv, [n for n in names if n in (options.cases or names)], others)
    board.play(console)
    board.print_summary(console)
    return 0


def _names(options: argparse.Namespace) -> Sequence[str]:
    if options.traces is None:
        from loadtest.simulation.cases import NAMES

        return NAMES
    from loadtest.simulation.trace_folder import trace_files

    return tuple(trace_files(options.traces))


def _results(file: Path) -> Mapping[str, Any]:
    """A results file of this command."""
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--others: {file} cannot be read: {error}") from None
    if not isinstance(document, dict) or not {"cases", META} <= document.keys():
        raise UserError(f"--others: {file} is no results file of bench-scaling")
    return document


@dataclass(slots=True)
class Board:
    """The rows as they come; written whenever one has come. `others`: a results file whose rows
    stand for all policies but ours."""

    options: argparse.Namespace
    argv: Sequence[str]
    names: Sequence[str]
    others: Mapping[str, Any] | None = None
    _played: dict[str, dict[str, "Played"]] = field(default_factory=dict)
    _empty: dict[str, "CaseRows"] = field(default_factory=dict)

    def play(self, console: Console) -> None:
        policies = [policy for policy in POLICIES if policy in self.options.policies]
        if self.others is not None:
            policies = ["ours"]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with (
            ProcessPoolExecutor(self.options.jobs, initializer=_leave_signals) as pool,
            Progress(*columns, TimeElapsedColumn(), console=console) as progress,
        ):
            bar = progress.add_task("scaling", total=len(self.names) * len({"ours", *policies}))

            def report(played: "Played", case: str) -> None:
                figures = played.figures
                progress.update(bar, advance=1, description=f"{case}: {played.policy}")
                progress.console.print(
                    f"{case:22} {played.policy:18} goodput {figures.goodput:7.2%}  "
                    f"{figures.gpu_hours:8.3f} GPU-hours  {figures.scale_actions:4} actions",
                    highlight=False,
                    soft_wrap=True,
                )

            try:
                self._play(pool, [policy for policy in policies if policy != "ours"], report)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                # A run takes seconds, and what was played to its end is kept.
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise

    def _play(
        self,
        pool: ProcessPoolExecutor,
        others: Sequence[str],
        report: Callable[["Played", str], None],
    ) -> None:
        """Ours first on each case: the others are to be as good. The plan begins with the best
        constant count and comes when that is known."""
        from loadtest.simulation.settings_search import equal_to

        running: dict[Future[Played], Task] = {}

        def submit(task: Task) -> None:
            running[pool.submit(play_task, task, self.options)] = task

        for name in self.names:
            submit(Task(name, "ours", 0.0))
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task, played = running.pop(future), future.result()
                self._played.setdefault(task.case, {})[task.policy] = played
                report(played, task.case)
                needed = equal_to(played.figures.goodput) if task.policy == "ours" else task.needed
                for policy in _next(task.policy, others):
                    submit(Task(task.case, policy, needed))
                self.write()

    def cases(self) -> Mapping[str, "CaseRows"]:
        known = [name for name in self.names if "ours" in self._played.get(name, {})]
        return {
            name: self._case(name).model_copy(update={"rows": self._rows(name)}) for name in known
        }

    def _case(self, name: str) -> "CaseRows":
        """Without its rows."""
        from loadtest.simulation.scoreboard import CaseRows

        if name not in self._empty:
            case = case_of(name, self.options.traces)
            self._empty[name] = CaseRows(
                gpus=case.gpus,
                initial={tier.value: count for tier, count in case.start.items()},
                requests=round(case.trace.expected_requests),
                duration_s=case.trace.duration_s,
                rows={},
            )
        return self._empty[name]

    def _rows(self, name: str) -> Mapping[str, "PolicyRow"]:
        from loadtest.simulation.scoreboard import CaseRows, row, row_of_file

        played = self._played[name]
        ours = played["ours"].figures
        if self.others is None or name not in self.others["cases"]:
            return {policy: row(played[policy], ours) for policy in POLICIES if policy in played}
        before = CaseRows.model_validate(self.others["cases"][name]).rows
        rows = {policy: row_of_file(found, ours) for policy, found in before.items()}
        return {**rows, "ours": row(played["ours"], ours)}

    def write(self) -> None:
        from loadtest.simulation.scoreboard import summary

        cases = self.cases()
        document: dict[str, Any] = {
            "cases": {name: case.model_dump(mode="json") for name, case in cases.items()},
            "summary": summary(cases).model_dump(mode="json"),
            META: self._meta(),
        }
        write(self.options.json or RESULTS, document)

    def print_summary(self, console: Console) -> None:
        """The summary; and the page, where all cases and policies were played."""
        from loadtest.simulation.scoreboard import sentences, summary

        cases = self.cases()
        found = summary(cases)
        for sentence in sentences(found):
            console.print(sentence, highlight=False)
        whole = self.options.traces is None and self.options.cases is None
        if whole and set(self.options.policies) == set(POLICIES) and self.options.json is None:
            page = write_section("scaling", page_text(cases, found, self._meta()))
            console.print(f"wrote {page}")
        console.print(f"wrote {self.options.json or RESULTS}")

    def _meta(self) -> Mapping[str, Any]:
        options = self.options
        return {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "command": shlex.join(["python", "-m", "loadtest", *self.argv]),
            "slo": {name: limit for name, limit in options.slo if limit is not None},
            "max_wait_s": options.max_wait_s,
            "lend_share": options.lend_share,
            "plan_tries": options.plan_tries,
            **({} if self.others is None else {"others": _origin(self.others[META])}),
        }


def _origin(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """When, by what and with what command rows were made that were made elsewhere."""
    return meta.get("others") or {name: meta[name] for name in ("date", "commit", "command")}


def _next(policy: str, others: Sequence[str]) -> Sequence[str]:
    """What is played after this policy on the same case."""
    if policy == "ours":
        waits = "constant" in others
        return [other for other in others if other != "clairvoyant" or not waits]
    return ["clairvoyant"] if policy == "constant" and "clairvoyant" in others else []


def page_text(cases: Mapping[str, "CaseRows"], found: "Summary", meta: Mapping[str, Any]) -> str:
    """What stands between the markers of docs/scaling.md."""
    from loadtest.simulation.scoreboard import sentences, table

    slo = ", ".join(f"{name.upper()} {limit:g} s" for name, limit in meta["slo"].items())
    caption = (
        f"Simulated on the profiles of loadtest/profiles; SLO of both tiers: {slo}; a longest wait "
        f"of {meta['max_wait_s']:g} s. `*`: it does not reach the goodput of ours at any setting, "
        f"and is compared by GPU-hours for each good request. `{meta['command']}`, {meta['date']}, "
        f"commit {meta['commit']}."
    )
    if others := meta.get("others"):
        caption += (
            f" The rows of the other policies: `{others['command']}`, {others['date']}, "
            f"commit {others['commit']}."
        )
    lines = "\n".join(f"- {sentence}" for sentence in sentences(found))
    return f"{lines}\n\n{table(cases)}\n\n{caption}"


def _leave_signals() -> None:
    """Ctrl-C is the parent's, which ends its workers; they have inherited its handlers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def play_task(task: Task, options: argparse.Namespace) -> "Played":
    """In a process of the pool."""
    from loadtest.simulation.scoreboard import Played

    found = _contest(task.case, options).judge(task.policy, task.needed)
    return Played(task.policy, found.figures, found.setting, found.tried, task.needed)


@lru_cache(maxsize=4)
def case_of(name: str, traces: Path | None) -> "Case":
    if traces is None:
        from loadtest.simulation.cases import case

        return case(name)
    from loadtest.simulation.trace_folder import folder_case, trace_files

    return folder_case(trace_files(traces)[name])


def _contest(name: str, options: argparse.Namespace) -> "Contest":
    from loadtest.simulation.cell import cell_of
    from loadtest.simulation.contest import Contest
    from loadtest.simulation.inputs import make_setup, profiles_of
    from loadtest.simulation.kept_runs import kept_runs

    case = case_of(name, options.traces)
    setup = replace(make_setup(options, case.gpus, profiles_of(options)), initial=dict(case.start))
    cell = cell_of(case.trace, setup)
    kept = kept_runs(options.kept, cell, setup, trusted=options.trust_kept)
    return Contest(cell, setup, options.plan_tries, kept.keep)
