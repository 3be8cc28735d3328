"""What `tierserve serve` prints once the service answers: addresses, models, a command to try."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve_app.local.exposure import Exposure, is_loopback
from serve_app.serving.haproxy_wrapper import ALL_ADDRESSES

MODELS_TIMEOUT_S = 10.0
_BODY = """'{"prompt": "What is the capital of France?", "stream": true}'"""


@dataclass(frozen=True, slots=True)
class ReadyService:
    """A service that answers. `routes` are its tiers' prefixes, `models` the names that the field
    `model` takes at `/v1`; none where `/v1` does not list any. `has_keys`: somebody has a key."""

    base_url: str
    exposure: Exposure
    port: int
    routes: Sequence[str]
    models: Sequence[str]
    log_dir: Path
    run_dir: Path
    status_url: str
    has_keys: bool = False
    logs_requests: bool = False


def listed_models(status_url: str) -> list[str]:
    """The ids of `GET /v1/models`; none where the service lists none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{status_url}/v1/models", timeout=MODELS_TIMEOUT_S) as answer:
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
    options = (_KEY_OPTION if service.exposure.database else "") + _CURL_OPTIONS
    return [
        "",
        f"Ready after {elapsed_s:.0f} s at {url}",
        *who_gets_in(service.exposure, service.port, has_keys=service.has_keys),
        "",
        *_for_clients(service),
        *(f"  curl -N {url}{route} {options}" for route in service.routes),
        "",
        f"  status    curl {service.status_url}/api/tiers",
        f"  requests  {requests}",
        f"  logs      {service.log_dir}",
        f"  commands  . {service.run_dir}/env   and then `serve status`, `serve deploy`, `ray ...`",
        "  stop      Ctrl-C",
        "",
    ]


def who_gets_in(exposure: Exposure, port: int, *, has_keys: bool = False) -> list[str]:
    """Who may ask, where that is not simply everybody on this machine."""
    host, lines = exposure.host, list[str]()
    if exposure.narrowed:
        lines += [
            "It listens on 127.0.0.1 only: --keys (make serve KEYS=1) or --allow-anonymous opens",
            "it to other machines.",
        ]
    if exposure.database is not None and exposure.allow_anonymous:
        lines.append("Whoever has a key has its quota; requests without one are served too.")
    elif exposure.database is not None and not has_keys:
        lines += [
            "It asks for a key and nobody has one yet. Make one, and again for each of you:",
            "  tierserve keys add NAME",
        ]
    elif exposure.database is not None:
        lines.append("It asks for a key; `tierserve keys list` has them (docs/access.md).")
    if is_loopback(host) or (exposure.database is not None and not exposure.allow_anonymous):
        return lines
    where = "every address of this machine" if host in ALL_ADDRESSES else host
    return [
        *lines,
        f"It listens on {where}, port {port}, and asks for no key: close the port to strangers,",
        "or give everybody a key: --keys without --allow-anonymous (docs/access.md).",
    ]


_KEY_OPTION = '-H "Authorization: Bearer $KEY" '
_CURL_OPTIONS = f"-H 'content-type: application/json' \\\n    -d {_BODY}"


def _for_clients(service: ReadyService) -> list[str]:
    if not service.models:
        return []
    which = "a key of `tierserve keys add`" if service.exposure.database else "any API key"
    return [
        f"  OpenAI base URL  {service.base_url}/v1   ({which})",
        f"  models           {', '.join(service.models)}",
        "",
    ]
