"""Where Serve's parts are: the replicas of a tier and the HTTP port of this cluster.

Serve has no public call for either in 2.60, so this file alone asks the controller directly.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

REFRESH_S = 1.0
# While a request waits for a replica that has just started, every bit of a second counts.
PEERS_REFRESH_S = 0.5


@dataclass(slots=True)
class Peers:
    """Base URLs of the other running replicas of this replica's deployment, at most 0.5 s old.

    Empty where replicas have no HTTP port of their own, that is when Ray runs without HAProxy.
    """

    _addresses: Sequence[str] = field(default_factory=tuple)
    _read_s: float = float("-inf")

    async def __call__(self) -> Sequence[str]:
        now_s = time.monotonic()
        if now_s - self._read_s > PEERS_REFRESH_S:
            self._read_s = now_s
            own = serve.get_replica_context().replica_tag
            addresses = await replica_addresses(serve.get_replica_context().app_name)
            self._addresses = [url for tag, url in addresses.items() if tag != own]
        return self._addresses


async def own_address() -> str | None:
    """Base URL of this replica's own HTTP port."""
    own = serve.get_replica_context()
    return (await replica_addresses(own.app_name)).get(own.replica_tag)


async def http_port() -> int:
    """The port on which this cluster's proxies listen."""
    config = await _controller().get_http_config.remote()
    return int(config.port)


async def replica_addresses(app_name: str) -> Mapping[str, str]:
    """Base URL by replica, of the running replicas of an application's ingress deployment."""
    groups = await _controller().get_target_groups.remote(app_name, from_proxy_manager=True)
    own_ip = ray.util.get_node_ip_address()
    return {
        # An actor's name ends in its replica's unique id: SERVE_REPLICA::app#deployment#id.
        target.name.rsplit("#", 1)[-1]: _url(target, own_ip)
        for group in groups
        if group.app_name == app_name and group.protocol == "HTTP"
        for target in group.targets
        if "#" in target.name
    }


def _url(target: Any, own_ip: str) -> str:
    # Like HAProxy: where Serve listens on loopback only, replicas do so too.
    host = "127.0.0.1" if target.ip == own_ip else target.ip
    return f"http://{host}:{target.port}"


def _controller() -> Any:
    return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
