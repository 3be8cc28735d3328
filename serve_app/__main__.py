"""The command line: `python -m serve_app serve`, `python -m serve_app config-reference`."""

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serve_app")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve both tiers on this machine until Ctrl-C")
    serve.add_argument("--port", type=_port, default=8000)
    serve.add_argument("--profile", help="local-cpu, t4, rtx4090, single-gpu, or a config file")
    serve.add_argument("--model", help="hub name, directory, or smollm2; default: the profile's")
    commands.add_parser("config-reference", help="print docs/configuration.md")
    options = parser.parse_args(arguments)
    if options.command == "config-reference":
        from serve_app.config_reference import render

        print(render(), end="")
        return 0
    from rich.console import Console

    from serve_app.serving.launcher import serve as serve_here

    return serve_here(options.port, options.profile, options.model, Console())


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return port


if __name__ == "__main__":
    sys.exit(main())
