"""The fake engine's application on a plain ASGI server:
`python -m loadtest.studies.overhead.plain_asgi`.

uvicorn and the application, nothing between: what the same chunks cost without tierserve's path.
"""

import argparse
import asyncio
import contextlib

import uvicorn
import uvloop

from serve_app.config.engine import FakeEngineConfig
from serve_app.config.tier import EngineConfig
from serve_app.core.placement.hardware import hardware_for
from serve_app.engine.fake.engine import FakeEngine


async def make_server(
    port: int, config: EngineConfig, fake: FakeEngineConfig, model_name: str
) -> uvicorn.Server:
    """The server, not yet listening; the engine has started."""
    engine = await FakeEngine.start(
        config,
        fake,
        hardware_for(None),
        served_names=[model_name],
        phase=lambda _: contextlib.nullcontext(),
    )
    settings = uvicorn.Config(engine.app, host="127.0.0.1", port=port, access_log=False)
    return uvicorn.Server(settings)


async def serve(options: argparse.Namespace) -> None:
    """Until it is stopped."""
    engine = options.engine
    server = await make_server(options.port, engine, engine.fake, options.model_name)
    await server.serve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--engine", type=EngineConfig.model_validate_json, required=True)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options))


if __name__ == "__main__":
    main()
