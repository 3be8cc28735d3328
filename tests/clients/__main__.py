"""Try the real clients against a running tierserve: the snippets of docs/clients.md, LiteLLM's
proxy with deploy/litellm, Open WebUI with deploy/open-webui. Installs their packages below
.cache/clients."""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.clients import open_webui
from tests.clients.environments import PINS, Environment, Missing, prepare
from tests.clients.refusing import refusing
from tests.clients.servers import litellm_proxy
from tests.clients.snippets import SERVICE, Snippet, snippets

SNIPPET_WITHIN_S = 180
# The model that the expected outputs are of.
EXPECTED_OF = "micro-r1"


@dataclass(frozen=True, slots=True)
class Tried:
    client: str
    title: str
    fault: str
    took_s: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("--base-url", default=SERVICE, help="of the service; default: %(default)s")
    parser.add_argument("--only", action="append", choices=list(PINS), default=[])
    parser.add_argument(
        "--install-only", action="store_true", help="the packages, and nothing else"
    )
    parser.add_argument("--screenshot", type=Path, help="where Open WebUI's page is kept as a PNG")
    options = parser.parse_args()
    console = Console()
    clients = options.only or list(PINS)
    environments: dict[str, Environment] = {}
    tried: list[Tried] = []
    for client in clients:
        console.print(f"packages: {' '.join(PINS[client])}", markup=False)
        try:
            environments[client] = prepare(client)
        except Missing as missing:
            tried.append(Tried(client, "installation", str(missing), 0))
    if not options.install_only:
        service = options.base_url.rstrip("/")
        models = httpx.get(f"{service}/v1/models", timeout=30).json()["data"]
        known = any(model["id"] == EXPECTED_OF for model in models)
        if not known:
            console.print(f"not {EXPECTED_OF}: outputs are not compared", markup=False)
        for result in _try_all(environments, service, options.screenshot, compare=known):
            console.print(f"{result.client}: {result.title}", markup=False)
            tried.append(result)
    console.print(_table(tried))
    failed = sum(bool(result.fault) for result in tried)
    console.print(f"{len(tried) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _try_all(
    environments: dict[str, Environment], service: str, screenshot: Path | None, *, compare: bool
) -> Iterator[Tried]:
    for snippet in snippets():
        if snippet.client in environments:
            yield _try(snippet, environments[snippet.client], service, compare=compare)
    if "open-webui" in environments:
        for title, fault, took_s in open_webui.steps(
            environments["open-webui"], service, screenshot
        ):
            yield Tried("open-webui", title, fault, took_s)


def _try(snippet: Snippet, environment: Environment, service: str, *, compare: bool) -> Tried:
    began_s = time.monotonic()
    try:
        with ExitStack() as before:
            if "full-tier" in snippet.before:
                service = before.enter_context(refusing(service))
            if "litellm" in snippet.before:
                before.enter_context(litellm_proxy(prepare("litellm"), service))
            folder = Path(before.enter_context(tempfile.TemporaryDirectory(dir=environment.folder)))
            script = folder / f"snippet{environment.suffix}"
            script.write_text(snippet.script(service))
            fault = _run(environment.command(script), snippet.expect if compare else "")
    except (AssertionError, Missing) as error:
        fault = str(error)
    return Tried(snippet.client, snippet.title, fault, time.monotonic() - began_s)


def _run(command: Sequence[str], expect: str) -> str:
    """What was wrong, or nothing."""
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=SNIPPET_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done after {SNIPPET_WITHIN_S} s"
    if ended.returncode:
        return ended.stderr.strip()[-600:]
    if not re.search(expect, ended.stdout, re.DOTALL):
        return f"no {expect!r} in {ended.stdout[-600:]!r}"
    return ""


def _table(tried: Sequence[Tried]) -> Table:
    table = Table("client", "what", "s", "result")
    for result in tried:
        said = escape(result.fault) if result.fault else "passed"
        table.add_row(result.client, result.title, f"{result.took_s:.0f}", said)
    return table


if __name__ == "__main__":
    sys.exit(main())
