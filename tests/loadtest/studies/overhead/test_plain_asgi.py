"""The plain server answers what the client measures, with as many tokens as asked for."""

import asyncio

from loadtest.client.chat import chat_body
from loadtest.studies.overhead.measure import run_closed_loop
from loadtest.studies.overhead.plain_asgi import make_server
from serve_app.config.engine import FakeEngineConfig
from serve_app.config.tier import EngineConfig
from serve_app.local.ports import free_ports


async def test_the_fake_engines_chunks_come_over_http() -> None:
    (port,) = free_ports(1)
    fake = FakeEngineConfig(start_s=0, speed=1e6)
    server = await make_server(port, EngineConfig(fake=fake), fake, "chat")
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)

    body = chat_body("chat", "hello", output_tokens=20)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    streams = await run_closed_loop(url, [body] * 4, concurrency=2)

    server.should_exit = True
    await serving
    assert [stream.output_tokens for stream in streams] == [20] * 4
    assert all(1 <= len(stream.token_s) <= 20 for stream in streams)
