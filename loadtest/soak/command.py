"""`python -m loadtest soak`: hours of mixed load with faults, and what drifted."""

import argparse
from pathlib import Path

from rich.console import Console

from loadtest.errors import UserError
from loadtest.options import base_url, below_1
from loadtest.report.run_folder import default_folder
from loadtest.soak.plan import DEFAULT_HOURS, FAULTS, LEAST_HOURS, Fault, plan_for

DESCRIPTION = """\
Starts both tiers on this machine, sends them a mix of requests without a pause, and does one fault
after the other to them. Watches memory, file handles, metrics and latency, and judges at the end
what drifted, what was lost, and whether each fault was over in time. The time to start is not
counted. Ctrl-C ends it with the report of what it has."""
EPILOG = """exit status: 0 nothing failed, 1 something failed, 2 the soak could not be done.
What was too short to tell is named and is no failure.

docs/soak.md says what is measured and where the limits are."""
ALL, NONE = "all", "none"
ON_INTERRUPT = "Stopped at once; --report judges what was written so far."
HELP_FORMAT = argparse.RawDescriptionHelpFormatter


def add_options(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(fault.name for fault in FAULTS)
    add = parser.add_argument
    add("--hours", type=float, default=DEFAULT_HOURS, help="how long (0.1667, ten minutes; 72 is "
        "the acceptance)")  # fmt: skip
    add("--base-url", type=base_url, help="a server with tiers that runs already: its "
        "processes are neither watched nor killed")  # fmt: skip
    add("--faults", default=ALL, metavar="all|none|NAME,NAME", help=f"of {names} (all)")
    add("--model", help="else micro-r1 without a GPU, and the profile's with GPUs")
    add("--load-share", type=below_1, default=0.4, metavar="SHARE", help="load, as part of what a "
        "closed loop gets at the beginning (0.4)")  # fmt: skip
    add("--slo", default="ttft=2s,tpot=200ms", help="for goodput (ttft=2s,tpot=200ms)")
    add("--seed", type=int, default=0, help="of arrivals and lengths (0)")
    add("--out", type=Path, metavar="DIR", help="loadtest/results/soak/soak-TIME if not given")
    add("--report", type=Path, metavar="DIR", help="judge what a soak has written so far, also of "
        "one that runs or was cut off; nothing is sent")  # fmt: skip


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    from loadtest.load.scenario_file import slo_of
    from loadtest.soak import report
    from loadtest.soak.run import SoakSettings, execute

    if options.report is not None:
        return report.finish(options.report, console)
    settings = SoakSettings(
        plan=plan_for(_hours(options.hours)),
        faults=faults_of(options.faults, own_server=options.base_url is None),
        base_url=options.base_url,
        model=options.model,
        load_share=options.load_share,
        slo=slo_of(options.slo),
        seed=options.seed,
        argv=tuple(argv),
    )
    path = options.out or default_folder("soak", "soak")
    own = execute(settings, path, console)
    status = report.finish(path, console)
    if own is not None and status == 0:
        own.forget_logs()
    elif own is not None:
        console.print(f"The server's logs: {own.cluster.log_dir}", highlight=False, soft_wrap=True)
    return status


def faults_of(text: str, *, own_server: bool) -> tuple[Fault, ...]:
    """By name, in their fixed order. Of `all`, a server elsewhere gets those that clients do."""
    if text == NONE:
        return ()
    if text == ALL:
        return tuple(fault for fault in FAULTS if own_server or not fault.needs_processes)
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {fault.name: fault for fault in FAULTS}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"--faults {text}: choose all, none, or some of {', '.join(known)}.")
    chosen = tuple(fault for fault in FAULTS if fault.name in names)
    cannot = [fault.name for fault in chosen if fault.needs_processes and not own_server]
    if cannot:
        raise UserError(
            f"--faults {', '.join(cannot)}: is done to the server's processes, which --base-url "
            "does not name; leave --base-url out, or name others."
        )
    return chosen


def _hours(hours: float) -> float:
    if not hours >= LEAST_HOURS or hours == float("inf"):
        raise UserError(
            f"--hours {hours:g} is too short for a baseline, a fault and another baseline: "
            f"give {LEAST_HOURS:.3f} (two minutes) or more."
        )
    return hours
