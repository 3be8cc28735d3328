"""The command line: `python -m serve_app serve`, `doctor`, `config-reference`."""

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serve_app")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve both tiers on this machine until Ctrl-C")
    serve.add_argument("--port", type=_port, default=8000)
    profiles = "local-cpu, t4, rtx4090, mixed, single-gpu, gpu-6gb, or a config file"
    serve.add_argument("--profile", help=profiles)
    serve.add_argument(
        "--model", help="hub name, directory, smollm2 or micro-r1; default: the profile's"
    )
    doctor = commands.add_parser(
        "doctor",
        help="what can run here, and why something cannot",
        description="Says what the Ray cluster can run of what is deployed (or of a profile), what "
        "each tier gets, why a replica is pending and what to change. Without a cluster it looks "
        "at this machine. Exit status: 0 all that is asked for can run, 1 something cannot, 2 bad "
        "usage or a cluster that does not answer.",
    )
    doctor.add_argument("--profile", help=f"{profiles}; default: what is deployed, or what fits")
    doctor.add_argument(
        "--address",
        help="Ray's dashboard; default: RAY_DASHBOARD_ADDRESS, or http://127.0.0.1:8265",
    )
    doctor.add_argument("--json", action="store_true", help="for programs: stable keys")
    commands.add_parser("config-reference", help="print docs/configuration.md")
    commands.add_parser("routes", help="print docs/routes.md")
    options = parser.parse_args(arguments)
    if options.command == "config-reference":
        from serve_app.config_reference import render

        print(render(), end="")
        return 0
    if options.command == "routes":
        from serve_app.api.routes import routes_page

        print(routes_page(), end="")
        return 0
    from rich.console import Console

    if options.command == "doctor":
        from serve_app.serving.doctor_page import doctor as look

        return look(options.profile, options.address, as_json=options.json, console=Console())

    from serve_app.serving.launcher import serve as serve_here

    return serve_here(options.port, options.profile, options.model, Console())


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return port


if __name__ == "__main__":
    sys.exit(main())
