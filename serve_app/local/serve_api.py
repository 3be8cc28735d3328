"""Ray Serve's REST interface: deploy a config, read how far it is. Needs no Ray in this process."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REQUEST_TIMEOUT_S = 10.0
# The first one starts Serve's controller and waits for it: seconds on free cores.
DEPLOY_TIMEOUT_S = 60.0
_APPLICATIONS = "/api/serve/applications/"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit): ")


class ServeApiError(RuntimeError):
    """Serve refused the request, or did not answer."""


@dataclass(frozen=True, slots=True)
class AppStatus:
    """One application: Serve's status, its message, and its replicas by state."""

    name: str
    status: str
    message: str
    replicas: Mapping[str, int]

    @property
    def failure(self) -> str | None:
        """Why this application will not come up, as far as Serve knows by now."""
        return self.message if is_failing(self.status, self.message) else None


@dataclass(frozen=True, slots=True)
class ServeApi:
    """The REST interface at the address of Ray's dashboard."""

    address: str
    token: str | None = None

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Hand over the whole config; Serve then works towards it."""
        body = json.dumps(config).encode()
        _ask(self, _APPLICATIONS, "PUT", body, timeout_s=DEPLOY_TIMEOUT_S)

    def status(self) -> dict[str, AppStatus]:
        """Every application that Serve knows."""
        applications = get_json(self, _APPLICATIONS).get("applications", {})
        return {name: _app_status(name, details) for name, details in applications.items()}

    def answers(self) -> bool:
        """Whether the interface is up."""
        try:
            get_json(self, _APPLICATIONS)
        except ServeApiError:
            return False
        return True


def get_json(api: ServeApi, path: str) -> dict[str, Any]:
    """Any page of the same dashboard. Raises ServeApiError."""
    return _ask(api, path, "GET", timeout_s=REQUEST_TIMEOUT_S)


def is_failing(status: str, message: str) -> bool:
    """Whether an application will not come up, as far as Serve knows by now."""
    # Serve goes on trying for many minutes; the first failure of a first start is enough.
    retrying = status == "DEPLOYING" and "failed to start" in message
    return retrying or status in ("DEPLOY_FAILED", "UNHEALTHY")


def failure_reason(message: str) -> str:
    """The last exception in Serve's message, without its traceback."""
    lines = [_COLOUR.sub("", line).rstrip() for line in message.strip().splitlines()]
    raised = [number for number, line in enumerate(lines) if _EXCEPTION.match(line)]
    return "\n".join(lines[raised[-1] :] if raised else lines)


def _ask(
    api: ServeApi, path: str, method: str, body: bytes | None = None, *, timeout_s: float
) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if api.token:
        headers["Authorization"] = f"Bearer {api.token}"
    url = f"{api.address}{path}"
    request = urllib.request.Request(  # noqa: S310 - the address is the operator's
        url, data=body, method=method, headers=headers
    )
    # The dashboard is on this machine: a proxy of the environment is not meant for it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        detail = error.read().decode(errors="replace").strip()
        raise ServeApiError(f"Serve answered {error.code}: {detail}") from error
    except (OSError, ValueError) as error:
        raise ServeApiError(f"Serve does not answer at {url}: {error}") from error
    return json.loads(text) if text.strip() else {}


def _app_status(name: str, details: Mapping[str, Any]) -> AppStatus:
    deployments = (details.get("deployments") or {}).values()
    counts: dict[str, int] = {}
    for deployment in deployments:
        for replica in deployment.get("replicas") or []:
            counts[replica["state"]] = counts.get(replica["state"], 0) + 1
    messages = [details.get("message") or "", *(d.get("message") or "" for d in deployments)]
    return AppStatus(
        name=name,
        status=details.get("status", "NOT_STARTED"),
        message="\n".join(message for message in messages if message),
        replicas=counts,
    )
