"""Clients that ask and do not take their answer: their slots are free again soon."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from serve_app.core.tiers import Tier
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import wait_for
from tests.hostile.attack import CHAT, REASONING, Target
from tests.hostile.conftest import STALL_S
from tests.hostile.test_connections import new_client_waits_s
from tests.hostile.wire import as_json, post, round_trip

SMALL_BUFFER = 2048
# For what the engine has not finished when its client is given up.
FREE_WITHIN_S = STALL_S + 10.0


def _body(*, tokens: int = 2000, **more: object) -> bytes:
    """As much to send as can be had: every token with twenty others."""
    asked = {
        "prompt": "hi",
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0.5,
        "logprobs": True,
        "top_logprobs": 20,
        "stream": True,
    }
    return as_json(asked | more)


CHATS = {"tokens": 1000}
Requests = Callable[[int], list[bytes]]
UNREAD: Mapping[str, tuple[Tier, Requests]] = {
    "one with n = slots": (Tier.CHAT, lambda slots: [post(CHAT, _body(n=slots, **CHATS))]),
    "one with n = slots, reasoning": (
        Tier.REASONING,
        lambda slots: [post(REASONING, _body(n=slots))],
    ),
    "70 with n 1": (Tier.CHAT, lambda slots: [post(CHAT, _body(**CHATS))] * 70),
    "through /v1": (
        Tier.REASONING,
        lambda slots: [
            post(
                "/v1/chat/completions",
                _body(
                    n=slots, model="reasoning", messages=[{"role": "user", "content": "hi"}]
                ).replace(b'"prompt": "hi", ', b""),
            )
        ],
    ),
    "whole answers": (
        Tier.CHAT,
        lambda slots: [post(CHAT, _body(n=slots, stream=False, **CHATS))] * 2,
    ),
    "legacy completions": (
        Tier.CHAT,
        lambda slots: [post(f"{CHAT}/v1/completions", _body(n=slots, logprobs=20, **CHATS))],
    ),
    "messages": (
        Tier.CHAT,
        lambda slots: (
            [
                post(
                    f"{CHAT}/v1/messages",
                    as_json(
                        {
                            "messages": [{"role": "user", "content": "hi"}],
                            "max_tokens": 1000,
                            "stream": True,
                        }
                    ),
                )
            ]
            * slots
        ),
    ),
    "responses": (
        Tier.CHAT,
        lambda slots: (
            [
                post(
                    f"{CHAT}/v1/responses",
                    as_json({"input": "hi", "max_output_tokens": 1000, "stream": True}),
                )
            ]
            * slots
        ),
    ),
    "prompt_logprobs": (
        Tier.CHAT,
        lambda slots: (
            [post(CHAT, _body(tokens=8, prompt="a " * 400, prompt_logprobs=20, stream=False))]
            * slots
        ),
    ),
    "long tokenize answers": (
        Tier.CHAT,
        lambda slots: (
            [
                post(
                    f"{CHAT}/tokenize",
                    as_json({"prompt": "a " * 3000, "return_token_strs": True}),
                )
            ]
            * 20
        ),
    ),
    "metrics": (Tier.CHAT, lambda slots: [b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"] * 50),
}


@contextmanager
def never_read(target: Target, requests: list[bytes]) -> Iterator[list[socket.socket]]:
    """Asked on connections whose receive buffer is soon full."""
    connections: list[socket.socket] = []
    try:
        for request in requests:
            connection = target.address.connect(receive_buffer=SMALL_BUFFER)
            connections.append(connection)
            connection.sendall(request)
            target.tally.statuses["unread"] += 1
        yield connections
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("name", UNREAD)
def test_who_does_not_read_holds_no_slot(target: Target, name: str) -> None:
    tier, requests = UNREAD[name]
    slots = target.site.tier(tier)["slots"]
    with target.tally.filling(tier, name), never_read(target, requests(slots)):
        started_s = clock_s()
        # Until they have arrived; what is known of the tiers is half a second old.
        time.sleep(1)
        # The connections stay open all the while.
        wait_for(target.is_idle, f"{name}: all slots are free", FREE_WITHIN_S + 10)
        taken_s = clock_s() - started_s
        assert new_client_waits_s(target, name, may_be_full=True) <= 2.0
    assert taken_s <= FREE_WITHIN_S
    assert not target.deaths()


def test_a_slow_reader_that_takes_something_is_served_to_the_end(target: Target) -> None:
    """Slower than the engine, and never still for as long as the limit says."""
    body = as_json({"prompt": "hi", "max_tokens": 300, "ignore_eos": True, "stream": True})
    received = b""
    with (
        target.tally.attacking("a slow reader"),
        target.address.connect(receive_buffer=SMALL_BUFFER) as connection,
    ):
        connection.sendall(post(CHAT, body))
        connection.settimeout(20)
        with contextlib.suppress(TimeoutError):
            while block := connection.recv(8192):
                received += block
                time.sleep(0.1)
    assert b"data: [DONE]" in received, received[-300:]


def test_a_reader_of_a_byte_a_second_keeps_no_slot(target: Target) -> None:
    stop = threading.Event()
    slots = target.site.tier(Tier.CHAT)["slots"]

    def sip(connections: list[socket.socket]) -> None:
        while not stop.wait(1):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.setblocking(False)
                    connection.recv(1)

    request = post(CHAT, _body(n=slots, **CHATS))
    with (
        target.tally.filling(Tier.CHAT, "a byte a second"),
        never_read(target, [request]) as connections,
    ):
        sipping = threading.Thread(target=sip, args=(connections,))
        sipping.start()
        try:
            wait_for(target.is_idle, "all slots are free", FREE_WITHIN_S + 10)
        finally:
            stop.set()
            sipping.join()


def test_others_wait_no_longer_than_beside_a_client_that_reads(target: Target) -> None:
    """The same work, read by one and unread by the other."""
    slots = target.site.tier(Tier.CHAT)["slots"]
    waits_s: dict[str, float] = {}
    with target.tally.filling(Tier.CHAT, "read"):
        reading = threading.Thread(
            target=lambda: round_trip(
                target.address, post(CHAT, _body(n=slots, tokens=200)), limit_s=120
            )
        )
        reading.start()
        time.sleep(0.5)
        waits_s["read"] = _first_answer_s(target)
        reading.join()
    target.wait_until_idle()
    with (
        target.tally.filling(Tier.CHAT, "unread"),
        never_read(target, [post(CHAT, _body(n=slots, tokens=200))]),
    ):
        time.sleep(0.5)
        waits_s["unread"] = _first_answer_s(target)
    assert waits_s["unread"] <= max(waits_s["read"], STALL_S) + 2.0, waits_s


def _first_answer_s(target: Target) -> float:
    """Asking again as often as it is refused."""
    started_s = clock_s()
    body = as_json({"prompt": "hi", "max_tokens": 1})
    while clock_s() - started_s < 60:
        answer = round_trip(target.address, post(CHAT, body), limit_s=60)
        target.tally.add("a new client", answer.status, answer.took_s)
        if answer.status == 200:
            return clock_s() - started_s
        assert answer.status == 429, answer
        time.sleep(0.2)
    raise AssertionError("never answered")
