"""Try the real clients against a running tierserve: the snippets of docs/clients.md, LiteLLM's
proxy with deploy/litellm, Open WebUI with deploy/open-webui. Installs their packages below
.cache/clients. One that was interrupted, or whose faults are fixed, goes on with --resume."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.clients import open_webui, scripts
from tests.clients.environments import CACHE, PINS, Environment, Missing, prepare
from tests.clients.refusing import refusing
from tests.clients.servers import litellm_proxy
from tests.clients.snippets import SERVICE, Snippet, snippets

# A line for each snippet that passed.
PASSED = CACHE / "passed.txt"
# The model that the expected outputs are of.
EXPECTED_OF = "micro-r1"


@dataclass(frozen=True, slots=True)
class Tried:
    client: str
    title: str
    fault: str
    took_s: float


def main() -> int:
    # Whichever way it is stopped, what a snippet has started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _options()
    console = Console(highlight=False, markup=False)
    if not options.resume:
        PASSED.unlink(missing_ok=True)
    tried: list[Tried] = []
    try:
        for result in _all(options, console):
            tried.append(result)
            if result.fault:
                console.print(f"  failed: {result.fault}")
    except KeyboardInterrupt:
        console.print("interrupted: --resume goes on here")
        return 130
    console.print(_table(tried))
    failed = [f"{result.client} ({result.title})" for result in tried if result.fault]
    console.print(f"{len(tried) - len(failed)} passed, {len(failed)} failed")
    if failed:
        console.print(f"failed: {'; '.join(failed)}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("--base-url", default=SERVICE, help="of the service; default: %(default)s")
    parser.add_argument("--only", action="append", choices=list(PINS), default=[])
    parser.add_argument(
        "--resume", action="store_true", help="without the snippets that passed before"
    )
    parser.add_argument(
        "--install-only", action="store_true", help="the packages, and nothing else"
    )
    parser.add_argument("--screenshot", type=Path, help="where Open WebUI's page is kept as a PNG")
    return parser.parse_args()


def _all(options: argparse.Namespace, console: Console) -> Iterator[Tried]:
    environments: dict[str, Environment] = {}
    for client in options.only or list(PINS):
        console.print(f"packages: {' '.join(PINS[client])}")
        try:
            environments[client] = prepare(client)
        except Missing as missing:
            yield Tried(client, "installation", str(missing), 0)
    if options.install_only:
        return
    service = options.base_url.rstrip("/")
    models = httpx.get(f"{service}/v1/models", timeout=30).json()["data"]
    known = any(model["id"] == EXPECTED_OF for model in models)
    if not known:
        console.print(f"not {EXPECTED_OF}: outputs are not compared")
    passed = set(PASSED.read_text().split()) if PASSED.exists() else set[str]()
    for snippet in snippets():
        if snippet.client in environments:
            yield _try_once(snippet, environments[snippet.client], service, passed, console, known)
    if "open-webui" in environments:
        console.print("open-webui")
        for step in open_webui.steps(environments["open-webui"], service, options.screenshot):
            yield Tried("open-webui", *step)


def _try_once(
    snippet: Snippet,
    environment: Environment,
    service: str,
    passed: set[str],
    console: Console,
    compare: bool,
) -> Tried:
    if snippet.key in passed:
        console.print(f"{snippet.client}: {snippet.title}: passed before")
        return Tried(snippet.client, snippet.title, "", 0)
    console.print(f"{snippet.client}: {snippet.title}")
    result = _try(snippet, environment, service, compare=compare)
    if compare and not result.fault:
        with PASSED.open("a") as file:
            file.write(f"{snippet.key}\n")
    return result


def _try(snippet: Snippet, environment: Environment, service: str, *, compare: bool) -> Tried:
    began_s = time.monotonic()
    try:
        with ExitStack() as before:
            if "full-tier" in snippet.before:
                service = before.enter_context(refusing(service))
            if "litellm" in snippet.before:
                before.enter_context(litellm_proxy(prepare("litellm"), service))
            expect = snippet.expect if compare else ""
            fault = scripts.run(environment, snippet.language, snippet.script(service), expect)
    except (AssertionError, Missing) as error:
        fault = str(error)
    return Tried(snippet.client, snippet.title, fault, time.monotonic() - began_s)


def _table(tried: Sequence[Tried]) -> Table:
    table = Table("client", "what", "s", "result")
    for result in tried:
        said = escape(result.fault) if result.fault else "passed"
        table.add_row(result.client, result.title, f"{result.took_s:.0f}", said)
    return table


if __name__ == "__main__":
    sys.exit(main())
