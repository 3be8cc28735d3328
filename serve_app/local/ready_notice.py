"""What `tierserve serve` prints once the service answers: addresses, models, a command to try."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve_app.serving.haproxy_wrapper import ALL_ADDRESSES

MODELS_TIMEOUT_S = 10.0
_BODY = """'{"prompt": "What is the capital of France?", "stream": true}'"""


@dataclass(frozen=True, slots=True)
class ReadyService:
    """A service that answers. `routes` are its tiers' prefixes, `models` the names that the field
    `model` takes at `/v1`; none where `/v1` does not list any."""

    base_url: str
    host: str
    port: int
    routes: Sequence[str]
    models: Sequence[str]
    log_dir: Path
    run_dir: Path
    logs_requests: bool = False


def listed_models(base_url: str) -> list[str]:
    """The ids of `GET /v1/models`; none where the service lists none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{base_url}/v1/models", timeout=MODELS_TIMEOUT_S) as answer:
            return [str(model["id"]) for model in json.load(answer)["data"]]
    except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError):
        return []


def ready_lines(service: ReadyService, elapsed_s: float) -> list[str]:
    """The whole block; a line is never broken, so that each can be copied."""
    url = service.base_url
    requests = (
        "a JSON line each, below"
        if service.logs_requests
        else "a JSON line each in the logs (worker-*.out); here with --log-requests"
    )
    return [
        "",
        f"Ready after {elapsed_s:.0f} s at {url}",
        *who_gets_in(service.host, service.port),
        "",
        *_for_clients(service),
        *(f"  curl -N {url}{route} {_CURL_OPTIONS}" for route in service.routes),
        "",
        f"  status    curl {url}/api/tiers",
        f"  requests  {requests}",
        f"  logs      {service.log_dir}",
        f"  commands  . {service.run_dir}/env   and then `serve status`, `serve deploy`, `ray ...`",
        "  stop      Ctrl-C",
        "",
    ]


def who_gets_in(host: str, port: int) -> list[str]:
    """The warning for an HTTP port that other machines reach."""
    if host in ("127.0.0.1", "::1", "localhost"):
        return []
    where = "every address of this machine" if host in ALL_ADDRESSES else host
    return [
        f"It listens on {where}, port {port}, and asks for no key: close the port to strangers,",
        "or set `http_options.host: 127.0.0.1` in a profile of your own (docs/operations.md).",
    ]


_CURL_OPTIONS = f"-H 'content-type: application/json' \\\n    -d {_BODY}"


def _for_clients(service: ReadyService) -> list[str]:
    if not service.models:
        return []
    return [
        f"  OpenAI base URL  {service.base_url}/v1   (any API key)",
        f"  models           {', '.join(service.models)}",
        "",
    ]
