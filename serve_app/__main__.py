# PYTHON_ARGCOMPLETE_OK
"""The command line: `tierserve`, or `python -m serve_app`."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serve_app.access.commands import add_keys

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130
DETAIL_LINES = 15
_PROFILES = "local-cpu, t4, rtx4090, mixed, single-gpu, gpu-6gb, or a Serve config file"
_DESCRIPTION = """\
tierserve serves one model in two tiers, chat and reasoning, with vLLM on Ray
Serve: OpenAI's and Anthropic's APIs at /v1, and one tier each at /api/chat and
/api/reasoning. Each tier has its own limits, queue and replicas.
"""
_EXAMPLES = """\
examples:
  # the model that fits this machine, at port 8000
  %(prog)s serve
  # a small reasoning model that runs on any CPU
  %(prog)s serve --model micro-r1 --port 8001
  # why a replica is pending, and what to change
  %(prog)s doctor
  # a key for a colleague; `serve --keys` asks for it
  %(prog)s keys add ada --tokens-per-day 500000
  # two requests a second to a running service
  %(prog)s bench run --tier chat=2/s --duration 60s

The service has the OpenAI base URL http://127.0.0.1:8000/v1, and its status is
at /api/tiers.

exit status: 0 success, 1 it failed, 2 bad usage, 130 interrupted.

completion: with the package argcomplete installed, in ~/.bashrc:
  eval "$(register-python-argcomplete tierserve)"
"""
_SERVE_EXAMPLES = """\
examples:
  # the profile that fits this machine
  %(prog)s
  # both tiers on one GPU
  %(prog)s --profile single-gpu
  # for a team: each has a key (docs/access.md)
  %(prog)s --keys --host 0.0.0.0
  # your own Serve config file
  %(prog)s --profile mine.yaml --port 8001

exit status: 0 stopped by Ctrl-C or SIGTERM, 1 it could not start or Ray ended.
"""
_DOCTOR_EXAMPLES = """\
examples:
  # the service that runs here, or else this machine
  %(prog)s
  # could this machine run that profile?
  %(prog)s --profile rtx4090
  # a cluster, for a script
  %(prog)s --address http://head:8265 --json

exit status: 0 everything requested can run, 1 something cannot, 2 bad usage or
a cluster that does not answer.
"""
# What of loadtest an operator runs, by its name here: loadtest's own name, and what it does.
BENCHES = {
    "run": ("run", "load on any OpenAI server: latencies, goodput, refusals"),
    "soak": ("soak", "hours of mixed load with injected faults: leaks, drift"),
    "eval": ("eval", "accuracy, tokens and latency on mathematics problems"),
    "compare": ("compare", "two models or servers on the same problems"),
    "answers": ("answers", "accuracy against tokens and latency of the answer policies"),
    "capacity": ("capacity", "maximum sustained load of a set of GPUs (simulated)"),
    "plan": ("plan", "the cheapest GPUs for a load and an SLO (simulated)"),
    "simulate": ("simulate", "one scaling policy on recorded traffic (simulated)"),
    "scaling": ("bench-scaling", "all scaling policies on all cases: the scoreboard"),
    "calibrate": ("calibrate", "measure a GPU's profile for the simulation"),
    "validate": ("validate", "compare a profile's simulation with real load"),
    "card": ("card", "all that this machine's GPU can show, in 45 minutes"),
    "traces": ("fetch-traces", "download public traces of LLM traffic"),
}
_BENCH_EXAMPLES = """\
examples:
  %(prog)s run --tier chat=2/s --duration 60s
  %(prog)s capacity --gpus T4=1,RTX4090=1
  %(prog)s scaling --traces FOLDER --json out.json

COMMAND --help lists the options of a command. All of them need a checkout of
the repository: load generator and simulator are not in the package.
"""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions and examples as they are written, and room for the longest command's name."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status.

    The one error boundary: what an operator can fix ends in a sentence on standard error and a
    status; `--traceback` adds where it was raised. Any other exception is a bug, and is raised.
    """
    parser = _parser()
    _complete(parser)
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # `tierserve routes | head`. Python would fail once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if not _is_operators(error):
            raise
        _explain(error, with_traceback=options.traceback)
        return BAD_USAGE if options.command == "doctor" else FAILED


def _run(options: argparse.Namespace) -> int:
    if options.command == "config-reference":
        from serve_app.config.reference import render

        print(render(), end="")
        return 0
    if options.command == "routes":
        from serve_app.api.routes import routes_page

        print(routes_page(), end="")
        return 0
    if options.command == "bench":
        return _bench(options.what, options.arguments)
    if options.command == "keys":
        from serve_app.access.key_commands import run

        return run(options)
    from rich.console import Console

    if options.command == "doctor":
        from serve_app.doctor.page import doctor

        return doctor(
            options.profile,
            options.address,
            port=options.port,
            as_json=options.json,
            console=Console(),
        )
    from serve_app.local.exposure import AccessChoice
    from serve_app.local.launcher import serve

    return serve(
        options.port,
        options.profile,
        options.model,
        Console(),
        access=AccessChoice(options.host, _database(options.keys), options.allow_anonymous),
        logs_requests=options.log_requests,
    )


def _database(keys: str | None) -> str | None:
    """Where `--keys` keeps them, without a path or URL in the usual place."""
    if keys != "":
        return keys
    from serve_app.access.database import default_database

    return default_database()


def _is_operators(error: Exception) -> bool:
    """Whether the message says what the operator can do: ValueError for a setting, profile, model
    or port that is not valid, and the launcher's own errors."""
    from serve_app.access.database import KeyStoreError
    from serve_app.local.cluster import ClusterError
    from serve_app.local.launcher import CannotStartError
    from serve_app.local.serve_api import ServeApiError

    theirs = ValueError | ClusterError | CannotStartError | KeyStoreError | ServeApiError
    return isinstance(error, theirs)


def _explain(error: Exception, *, with_traceback: bool) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    if with_traceback:
        console.print(traceback.format_exc(), highlight=False, markup=False, soft_wrap=True)
    reason, detail = str(error).strip(), str(getattr(error, "detail", "")).strip()
    console.print()
    console.print(reason, style="bold red", highlight=False, markup=False, soft_wrap=True)
    for line in detail.splitlines()[-DETAIL_LINES:]:
        console.print(f"  | {line}", highlight=False, markup=False, soft_wrap=True)


def _bench(what: str, arguments: Sequence[str]) -> int:
    """`loadtest` is not part of the package: it is run from the checkout that this file lies in, in
    this process, so that Ctrl-C and SIGTERM reach it."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "loadtest" / "__main__.py").is_file():
        print(
            "bench needs a checkout of the repository: the load generator and the simulator are "
            "not in the package.",
            file=sys.stderr,
        )
        return BAD_USAGE
    # The second one is for processes that it starts.
    sys.path.insert(0, str(checkout))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(checkout), os.environ.get("PYTHONPATH")))
    )
    # As Ctrl-C: what a command has frozen continues, and what it has started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from loadtest.__main__ import main as run_loadtest

        return run_loadtest([BENCHES[what][0], *arguments])
    except ModuleNotFoundError as missing:
        print(
            f"bench {what} needs the package {missing.name}: `make setup`, or "
            "`pip install -e '.[load,eval]'` in the checkout.",
            file=sys.stderr,
        )
        return BAD_USAGE


def _parser() -> argparse.ArgumentParser:
    started_as = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=started_as if started_as == "tierserve" else "python -m serve_app",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tierserve {_version()}")
    parser.add_argument(
        "--traceback", action="store_true", help="with an error, show where it was raised"
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands (each has a --help)"
    )
    _add_serve(commands)
    _add_doctor(commands)
    add_keys(commands)
    _add_bench(commands)
    commands.add_parser("config-reference", help="print docs/configuration.md: every setting")
    commands.add_parser("routes", help="print docs/routes.md: every HTTP route")
    return parser


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell's question for completions, where argcomplete is installed; it then ends the
    process."""
    try:
        import argcomplete  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        return
    argcomplete.autocomplete(parser)


def _version() -> str:
    try:
        return version("tierserve")
    except PackageNotFoundError:
        return "(not installed)"


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser(
        "serve",
        help="serve both tiers on this machine until Ctrl-C",
        description="Starts Ray, HAProxy and a replica of each tier on this machine, prints where\n"
        "it listens, and stops all of it at Ctrl-C.",
        epilog=_SERVE_EXAMPLES,
        formatter_class=_HelpFormatter,
    )
    add = serve.add_argument
    add("--port", type=_port, default=8000, metavar="PORT", help="of HTTP (default: %(default)s)")
    add(
        "--profile",
        help=f"{_PROFILES} (default: the one that fits the GPUs of this machine; without any, "
        "local-cpu)",
    )
    add(
        "--model",
        help="hub name, directory, smollm2, micro-r1 or micro-r2 (default: TIERSERVE_MODEL, or "
        "else the profile's)",
    )
    add(
        "--host",
        help="address to listen on (default: the profile's, but 127.0.0.1 without --keys and "
        "--allow-anonymous)",
    )
    add(
        "--keys",
        nargs="?",
        const="",
        metavar="PATH or URL",
        help="ask for API keys; they and their use are in this SQLite file or PostgreSQL database "
        "(default: no keys; without PATH that of `tierserve keys`)",
    )
    add(
        "--allow-anonymous",
        action="store_true",
        help="serve whoever reaches the address without a key, also beyond this machine (default: "
        "only this machine without keys, and nobody without one with --keys)",
    )
    add(
        "--log-requests",
        action="store_true",
        help="show every log line, including one per request (default: warnings and errors, at "
        "most one a second; the log files have all)",
    )


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    doctor = commands.add_parser(
        "doctor",
        help="report what can run here, and why something cannot",
        description="Reports what the Ray cluster can run of what is deployed (or of a profile),\n"
        "what each tier gets, why a replica is pending and what to change. It looks at\n"
        "the cluster that is named; else at a running `serve` of this user; else at\n"
        "Ray's default address; else at this machine.",
        epilog=_DOCTOR_EXAMPLES,
        formatter_class=_HelpFormatter,
    )
    add = doctor.add_argument
    add("--profile", help=f"{_PROFILES} (default: what is deployed, or else what fits)")
    add(
        "--address",
        help="of Ray's dashboard (default: RAY_DASHBOARD_ADDRESS, or else a running `serve` here, "
        "or else http://127.0.0.1:8265)",
    )
    add(
        "--port",
        type=_port,
        metavar="PORT",
        help="look at the running `serve` of this HTTP port (default: the only one that runs)",
    )
    add("--json", action="store_true", help="for programs: stable keys (default: sentences)")


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    width = max(map(len, BENCHES))
    rows = "\n".join(f"  {name:<{width}}  {does}" for name, (_, does) in BENCHES.items())
    bench = commands.add_parser(
        "bench",
        help="load, capacity, evaluation and soak tests (in a checkout)",
        description="Load on a running service, quality of its answers, and what a set of GPUs\n"
        f"could serve.\n\ncommands:\n{rows}",
        epilog=_BENCH_EXAMPLES,
        formatter_class=_HelpFormatter,
    )
    bench.add_argument("what", choices=BENCHES, metavar="COMMAND", help="followed by its options")
    bench.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port: give one from 1 to 65535")
    return port


if __name__ == "__main__":
    sys.exit(main())
