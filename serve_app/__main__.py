"""The command line: `tierserve`, or `python -m serve_app`."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PROFILES = "local-cpu, t4, rtx4090, mixed, single-gpu, gpu-6gb, or a Serve config file"
_DESCRIPTION = """\
tierserve serves one model in two tiers, chat and reasoning, with vLLM on Ray Serve: OpenAI's and
Anthropic's interface at /v1, one tier each at /api/chat and /api/reasoning. Each tier has limits, a
queue and replicas of its own.
"""
_EXAMPLES = """\
examples:
  %(prog)s serve                                the model that fits this machine, port 8000
  %(prog)s serve --model micro-r1 --port 8001   a reasoning model that runs on any CPU
  %(prog)s doctor                               why a replica is pending, and what to change

The service has the OpenAI base URL http://127.0.0.1:8000/v1, and its status at /api/tiers.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "config-reference":
        from serve_app.config.reference import render

        print(render(), end="")
        return 0
    if options.command == "bench":
        return _bench(options.what, options.arguments)
    if options.command == "routes":
        from serve_app.api.routes import routes_page

        print(routes_page(), end="")
        return 0
    from rich.console import Console

    if options.command == "doctor":
        from serve_app.doctor.page import doctor as look

        return look(
            options.profile,
            options.address,
            port=options.port,
            as_json=options.json,
            console=Console(),
        )

    from serve_app.local.launcher import serve as serve_here

    return serve_here(
        options.port,
        options.profile,
        options.model,
        Console(),
        logs_requests=options.log_requests,
    )


def _parser() -> argparse.ArgumentParser:
    started_as = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=started_as if started_as == "tierserve" else "python -m serve_app",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands (each has a --help)"
    )
    _add_serve(commands)
    _add_doctor(commands)
    _add_bench(commands)
    commands.add_parser("config-reference", help="print docs/configuration.md, all settings")
    commands.add_parser("routes", help="print docs/routes.md, all routes")
    return parser


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser(
        "serve",
        help="serve both tiers on this machine until Ctrl-C",
        description="Starts Ray, HAProxy and a replica of each tier on this machine, says where it "
        "listens, and stops all of it at Ctrl-C.",
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
        help="hub name, directory, smollm2 or micro-r1 (default: TIERSERVE_MODEL, or else the "
        "profile's)",
    )
    add(
        "--log-requests",
        action="store_true",
        help="show every log line, one for each request among them (default: warnings and errors, "
        "one a second at most; the log files have all)",
    )


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    doctor = commands.add_parser(
        "doctor",
        help="what can run here, and why something cannot",
        description="Says what the Ray cluster can run of what is deployed (or of a profile), what "
        "each tier gets, why a replica is pending and what to change. It looks at the cluster that "
        "is named; else at a running `serve` of this user; else at Ray's default address; else at "
        "this machine. Exit status: 0 all that is asked for can run, 1 something cannot, 2 bad "
        "usage or a cluster that does not answer.",
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
    bench = commands.add_parser(
        "bench",
        help="compare the scaling laws in the simulator (in a checkout of the repository)",
        description="`bench scaling` plays the server's scaling law and others on recorded and "
        "made-up traffic, or on a folder of your own traces, and says what each costs at equal "
        "goodput. `bench scaling --help` has its options.",
    )
    bench.add_argument("what", choices=("scaling",))
    bench.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its options")


def _bench(what: str, arguments: Sequence[str]) -> int:
    """`loadtest` is no part of the package: it is run from the checkout that this one lies in."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "loadtest" / "__main__.py").is_file():
        print(
            "bench needs a checkout of the repository: the simulator is no part of the package.",
            file=sys.stderr,
        )
        return 2
    path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "loadtest", f"bench-{what}", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own


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
