"""The web application of `/v1` in a process of its own, served by uvicorn with the settings that
Serve gives it, in front of whatever listens at a base URL. Without Ray."""

import argparse
import asyncio
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn

from serve_app.api.gateway import Gateway
from serve_app.api.status import DeploymentState, Kept, Report
from serve_app.api.web_app import make_web_app
from serve_app.config.replay import ReplayConfig
from serve_app.core.scaling.decision_record import ScalingRecord
from serve_app.core.tiers import Tier

TIERS = (Tier.CHAT, Tier.REASONING)
MAX_BODY_BYTES = 4 * 1024 * 1024


class NoReplicas:
    """Of tiers whose status nobody asks for."""

    async def state(self, tier: Tier, max_age_s: float = 0.0) -> DeploymentState:
        return DeploymentState("NOT_DEPLOYED", "", 0, None)

    async def reports(self, tier: Tier) -> Sequence[Kept[Report]]:
        return ()

    async def schemas(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    async def scaling(self, tier: Tier) -> ScalingRecord | None:
        return None

    async def metrics(self, tier: Tier) -> Mapping[str, Kept[str]]:
        return {}

    async def gateways(self) -> Mapping[str, Kept[str]]:
        return {}


async def serve(upstream: str, replay: ReplayConfig) -> None:
    """Until it is ended; the first line of its output is the port."""

    async def base_url() -> str:
        return upstream

    gateway = Gateway(base_url, TIERS, MAX_BODY_BYTES, replay=replay)
    app = make_web_app(TIERS, NoReplicas(), gateway)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_config=None)
    print(listening.getsockname()[1], flush=True)
    await uvicorn.Server(config).serve(sockets=[listening])


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--max-times", type=int, default=ReplayConfig().max_times)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.upstream, ReplayConfig(max_times=options.max_times)))


if __name__ == "__main__":
    sys.exit(main())
