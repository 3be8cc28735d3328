"""The operators' pages at an address of their own, where nobody is asked for a key."""

import asyncio
import socket
from contextlib import suppress

import httpx
import pytest

from serve_app.api.gateway import Gateway
from serve_app.api.web_app import make_web_app
from serve_app.config.access import AccessConfig, address_of
from serve_app.serving.status_listener import StatusListener
from tests.api.fake_keys import a_fake_desk
from tests.api.test_forwarding import until
from tests.api.web_client import BOTH, FakeTiers


async def own_proxy() -> str:
    return "http://127.0.0.1:1"


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return f"127.0.0.1:{held.getsockname()[1]}"


async def test_it_answers_what_operators_ask_without_a_key_and_generates_nothing() -> None:
    address = free_address()
    door = make_web_app(BOTH, FakeTiers(), Gateway(own_proxy, BOTH, 1024), access=a_fake_desk())
    listening = asyncio.create_task(StatusListener(door.status_app(), address).run())
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
            async with asyncio.timeout(20):
                while True:
                    with suppress(httpx.ConnectError):
                        await client.get("/healthz")
                        break
                    await asyncio.sleep(0.02)
            statuses = {
                path: (await client.get(path)).status_code
                for path in ("/metrics", "/api/tiers", "/v1/models", "/v1/models/chat", "/readyz")
            }
            assert set(statuses.values()) == {200}, statuses
            assert (await client.post("/v1/chat/completions", json={})).status_code == 404
            assert (await client.get("/openapi.json")).status_code == 404
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


async def test_an_address_that_is_taken_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    door = make_web_app(BOTH, FakeTiers(), Gateway(own_proxy, BOTH, 1024))
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        listening = asyncio.create_task(StatusListener(door.status_app(), address).run())
        await until(lambda: "cannot be opened" in caplog.text)
        assert not listening.done()
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


@pytest.mark.parametrize("address", ["", "9464", "host", "host:", "host:x", ":1", "h:0", "h:70000"])
def test_what_is_no_address_is_refused_as_a_setting(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        AccessConfig(status_listener=address)


def test_an_address_may_be_ipv6() -> None:
    assert address_of("[::1]:9464") == ("::1", 9464)
    assert address_of("0.0.0.0:9464") == ("0.0.0.0", 9464)
