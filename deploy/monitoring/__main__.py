"""The command line: `python -m deploy.monitoring run`, `check`, `write`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from deploy.monitoring.binaries import UNPACKED, MonitoringError, prometheus_binary
from deploy.monitoring.board import NOT_EVERYWHERE
from deploy.monitoring.names import NAMES_FILE, record_names
from deploy.monitoring.queries import PrometheusApi, ask_all
from deploy.monitoring.run import RUN_DIR, command, find_ray_targets, lay_out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        if options.command == "run":
            _run(options.application, options.port, console)
        if options.command == "check":
            return _check(PrometheusApi(options.prometheus), options.minutes, console)
        if options.command == "names":
            _record(options.application, console)
        if options.command == "write":
            from deploy.monitoring.generated import write_all

            for path in write_all():
                console.print(f"wrote {path}")
    except MonitoringError as error:
        console.print(str(error), style="bold red", markup=False)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.monitoring")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="Prometheus with all rules, beside an application of this machine, until Ctrl-C"
    )
    names = commands.add_parser("names", help="record the names of an application's metrics")
    for parsed in (run, names):
        parsed.add_argument("--application", default="127.0.0.1:8000", help="its host:port")
    run.add_argument("--port", type=int, default=9090, help="where Prometheus listens")
    check = commands.add_parser(
        "check",
        help="ask a Prometheus for each recorded series, each dashboard's query, and what fires",
        description="Exit status: 0 all have data, 1 some have none, 2 Prometheus does not answer. "
        "What needs a GPU or API keys is asked and may have none.",
    )
    check.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its base URL")
    check.add_argument("--minutes", type=float, default=30.0, help="how far to look back")
    commands.add_parser("write", help="write dashboards/*.json and the PrometheusRule of k8s/")
    return parser


def _run(application: str, port: int, console: Console) -> None:
    """Becomes Prometheus."""
    binary = prometheus_binary("prometheus", lambda text: console.print(text))
    ray_targets = _ray_targets(application)
    config = lay_out(RUN_DIR, application, ray_targets)
    ray = "found" if ray_targets else "not found, so the panels on nodes and the door stay empty"
    console.print(
        f"application  http://{application}/metrics\n"
        f"Ray's own    {ray}\n"
        f"Prometheus   http://127.0.0.1:{port}{_pages(binary)}\n"
        f"data         {RUN_DIR}\n"
        "stop         Ctrl-C"
    )
    os.execv(binary, list(command(config, port)))  # noqa: S606 - words of our own


def _pages(binary: str) -> str:
    """Debian's package reads its web pages from where it would be installed."""
    if Path(binary).is_relative_to(UNPACKED):
        return "  (interface only: `apt install prometheus` brings its web pages)"
    return ""


def _record(application: str, console: Console) -> None:
    ray_targets = _ray_targets(application)
    if ray_targets is None:
        raise MonitoringError(f"No Ray cluster of this machine serves at {application}.")
    console.print(f"{record_names(application, ray_targets)} names in {NAMES_FILE}")


def _ray_targets(application: str) -> Path | None:
    host, _, port = application.rpartition(":")
    if not host or not port.isdecimal():
        raise MonitoringError(f"--application {application}: host:port is needed.")
    return find_ray_targets(int(port))


def _check(api: PrometheusApi, minutes: float, console: Console) -> int:
    now_s = time.time()
    questions = ask_all(api, start_s=now_s - 60 * minutes, end_s=now_s)
    asked = list(track(questions, "asking", console=console, transient=True))
    empty = [each for each in asked if each.series == 0]
    lacking = [each for each in empty if each.source not in NOT_EVERYWHERE]
    for each in empty:
        word = NOT_EVERYWHERE.get(each.source, "no data")
        console.print(f"{word}: {each.place}: {each.expr}", markup=False)
    console.print(f"{len(asked) - len(empty)} of {len(asked)} have data")
    for name, tier, severity in sorted(api.firing()):
        console.print(f"fires: {name} {tier} ({severity})")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
