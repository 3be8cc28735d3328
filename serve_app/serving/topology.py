"""Where Serve's parts are: the replicas of a tier and the HTTP port of this cluster.

Serve has no public call for either in 2.60, so its controller is asked directly.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serve_app.serving import ray_internals

log = logging.getLogger(__name__)

REFRESH_S = 1.0
# While a request waits for a replica that has just started, every bit of a second counts.
PEERS_REFRESH_S = 0.5
# A controller that hangs is not to keep those waiting who could do without other replicas.
ASK_LIMIT_S = 2.0


@dataclass(slots=True)
class Peers:
    """Base URLs of the other running replicas of this replica's deployment, at most 0.5 s old; by
    their names too.

    Empty where replicas have no HTTP port of their own, that is when Ray runs without HAProxy.
    """

    _addresses: Mapping[str, str] = field(default_factory=dict[str, str])
    # When the controller has last answered, or failed to.
    _read_s: float = float("-inf")
    # All who ask while the controller is asked wait for that answer.
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __call__(self) -> Sequence[str]:
        return [*(await self._read()).values()]

    async def by_name(self) -> Mapping[str, str]:
        """The base URL of each."""
        return await self._read()

    async def url_of(self, replica: str) -> str | None:
        """None where there is no such replica beside this one."""
        return (await self._read()).get(replica)

    async def _read(self) -> Mapping[str, str]:
        if self._old:
            async with self._reading:
                if self._old:
                    await self._ask()
        return self._addresses

    @property
    def _old(self) -> bool:
        return time.monotonic() - self._read_s > PEERS_REFRESH_S

    async def _ask(self) -> None:
        """Where the controller cannot say, those of its last answer count on for as long."""
        own = serve.get_replica_context()
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                addresses = await replica_addresses(own.app_name)
        # Ray has ValueError for a controller that is not there.
        except (RayServeException, RayError, TimeoutError, ValueError):
            log.warning("where the other replicas are is not known anew", exc_info=True)
        else:
            self._addresses = {tag: url for tag, url in addresses.items() if tag != own.replica_tag}
        self._read_s = time.monotonic()


async def own_address() -> str | None:
    """Base URL of this replica's own HTTP port."""
    own = serve.get_replica_context()
    return (await replica_addresses(own.app_name)).get(own.replica_tag)


async def http_port() -> int:
    """The port on which this cluster's proxies listen."""
    return await ray_internals.http_port()


async def replica_addresses(app_name: str) -> Mapping[str, str]:
    """Base URL by replica, of the running replicas of an application's ingress deployment."""
    own_ip = ray.util.get_node_ip_address()
    return {
        replica: _url(target, own_ip)
        for group in await ray_internals.target_groups(app_name)
        if group.app_name == app_name and group.protocol == "HTTP"
        for target in group.targets
        if (replica := ray_internals.replica_id(target.name)) is not None
    }


def _url(target: Any, own_ip: str) -> str:
    # Like HAProxy: where Serve listens on loopback only, replicas do so too.
    host = "127.0.0.1" if target.ip == own_ip else target.ip
    return f"http://{host}:{target.port}"
