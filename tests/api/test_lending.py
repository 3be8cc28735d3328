"""Chat is full and reasoning lends it slots: whose rules, names and counts they are."""

import asyncio
import json

import pytest

from serve_app.api.forwarding import FORWARDED_HEADER
from serve_app.api.lending import BORROWED_HEADER, Lender, LendingDesk
from serve_app.core.tiers import Tier
from tests.api.asgi import Call, answers, call, streams
from tests.api.test_forwarding import until
from tests.api.two_tiers import mounted, two_tiers
from tests.builders import count, forwarded_by_a_replica

# --- the borrower's


async def test_a_borrowed_request_keeps_the_rules_of_its_own_tier() -> None:
    async with two_tiers() as tiers:
        filling, borrowing = await tiers.fill_chat(), await tiers.borrow()
        (asked,) = tiers.reasoning_engine.asked
        assert asked == {
            "model": "reasoning",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
            ],
            "max_completion_tokens": 100,
            "temperature": 0.6,
            "top_p": 0.95,
        }
        assert tiers.reasoning_engine.scopes[0]["path"] == "/api/reasoning/v1/chat/completions"
        await tiers.end(filling, borrowing)
        assert len(tiers.chat_engine.asked) == 1


async def test_what_chat_allows_and_reasoning_does_not_is_borrowed_too() -> None:
    async with two_tiers(reasonings={"max_new_tokens": 10}) as tiers:
        filling, borrowing = await tiers.fill_chat(), await tiers.borrow(max_tokens=90)
        assert tiers.reasoning_engine.asked[0]["max_tokens"] == 90
        await tiers.end(filling, borrowing)
        assert borrowing.status == 200


async def test_the_answer_carries_the_name_of_the_borrower() -> None:
    async with two_tiers() as tiers:
        filling, borrowing = await tiers.fill_chat(), await tiers.borrow()
        await tiers.end(filling, borrowing)
        assert json.loads(borrowing.text)["model"] == "chat"
        assert int(borrowing.headers["content-length"]) == len(borrowing.text)


async def test_a_stream_carries_the_name_of_the_borrower_and_no_text_is_changed() -> None:
    said = json.dumps({"model": "reasoning"}, separators=(",", ":"))
    chunk = json.dumps(
        {"model": "reasoning", "choices": [{"delta": {"content": said}}]}, separators=(",", ":")
    )
    events = [f"data: {chunk}\n\n".encode(), b"data: [DONE]\n\n"]
    async with two_tiers(lender=streams(events[0], *events)) as tiers:
        filling = await tiers.fill_chat()
        borrowing = await call(tiers.chat, payload={"prompt": "hi", "stream": True})
        first, second, done = borrowing.text.strip().split("\n\n")
        for event in (first, second):
            answer = json.loads(event.removeprefix("data: "))
            assert answer["model"] == "chat"
            assert answer["choices"][0]["delta"]["content"] == said
        assert done == "data: [DONE]"
        assert count(tiers.chat, "itl_seconds_count") > 0
        assert count(tiers.reasoning, "itl_seconds_count") == 0
        await tiers.end(filling)


async def test_the_borrower_counts_the_request_and_the_lender_what_it_lent() -> None:
    async with two_tiers() as tiers:
        filling = await tiers.fill_chat()
        borrowing = [await tiers.borrow(), await tiers.borrow()]
        lender = tiers.reasoning.gate
        assert (lender.running_sequences, lender.borrowed_sequences) == (2, 2)
        assert tiers.chat.forwarder.sequences_elsewhere == 2
        await tiers.end(filling, *borrowing)
        await until(lambda: count(tiers.reasoning, "lent_total", borrower="chat") == 2)
        assert count(tiers.chat, "borrowed_total", lender="reasoning") == 2
        assert count(tiers.chat, "requests_total", status="200") == 3
        for name in ("requests_total", "queue_wait_seconds_count", "e2e_seconds_count"):
            assert count(tiers.reasoning, name) == 0, name
        assert not tiers.reasoning.gate.service.measured


async def test_a_request_that_would_be_refused_borrows_a_slot() -> None:
    async with two_tiers(queued=0) as tiers:
        filling = await tiers.fill_chat()
        tiers.free_reasoning.set()
        assert (await call(tiers.chat, payload={"prompt": "hi"})).status == 200
        assert count(tiers.chat, "refused_total") == 0
        await tiers.end(filling)


async def test_a_client_that_leaves_gives_the_slot_back() -> None:
    async with two_tiers() as tiers:
        filling, borrowing = await tiers.fill_chat(), await tiers.borrow()
        borrowing.leave()
        await until(lambda: not tiers.reasoning.gate.running_requests)
        await borrowing.done
        assert tiers.reasoning_engine.aborted == 1
        assert count(tiers.chat, "disconnected_total") == 1
        assert count(tiers.reasoning, "disconnected_total") == 0
        await tiers.end(filling)


async def test_an_error_of_the_engine_is_forwarded() -> None:
    vllm = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
    async with two_tiers(lender=answers(vllm, status=400)) as tiers:
        filling = await tiers.fill_chat()
        borrowing = await call(tiers.chat, payload={"prompt": "hi"})
        assert (borrowing.status, borrowing.error["message"]) == (400, "too long")
        await tiers.end(filling)


# --- the lender's


async def test_own_requests_start_at_once_beside_all_that_is_lent() -> None:
    async with two_tiers() as tiers:
        filling = await tiers.fill_chat()
        borrowing = [await tiers.borrow(), await tiers.borrow()]
        waiting = Call(tiers.chat, payload={"prompt": "hi"})
        await until(lambda: tiers.chat.gate.queued_requests == 1)
        await asyncio.sleep(0.1)
        # Not asked of the queue: who waits leaves it while a lender is asked.
        assert tiers.reasoning_engine.running == 2, "half of the slots are lent, and no more"
        own = [Call(tiers.reasoning, payload={"prompt": "own"}) for _ in range(2)]
        await until(lambda: tiers.reasoning_engine.running == 4)
        assert tiers.reasoning.gate.queued_requests == 0
        await tiers.end(filling, waiting, *borrowing, *own)


async def test_while_own_requests_wait_nothing_is_lent() -> None:
    async with two_tiers() as tiers:
        filling, borrowing = await tiers.fill_chat(), await tiers.borrow()
        with (
            tiers.reasoning.gate.enter(3),
            tiers.reasoning.gate.enter(2) as own,
        ):
            waiting = Call(tiers.chat, payload={"prompt": "hi"})
            await asyncio.sleep(0.1)
            assert not own.granted.done()
            assert len(tiers.reasoning_engine.asked) == 1
            await tiers.end(filling, borrowing, waiting)


async def test_a_tier_that_lends_nothing_is_left_alone() -> None:
    async with two_tiers(lend_share=0.0) as tiers:
        filling = await tiers.fill_chat()
        waiting = Call(tiers.chat, payload={"prompt": "hi"})
        await asyncio.sleep(0.1)
        await tiers.end(filling, waiting)
        assert waiting.status == 200
        assert tiers.reasoning_engine.asked == []


async def test_a_request_for_the_lenders_own_name_is_not_borrowed() -> None:
    """Chat's engine does not know a model of that name, and is to say so."""
    async with two_tiers() as tiers:
        filling = await tiers.fill_chat()
        waiting = Call(tiers.chat, payload={"prompt": "hi", "model": "reasoning"})
        await asyncio.sleep(0.1)
        await tiers.end(filling, waiting)
        assert [asked["model"] for asked in tiers.chat_engine.asked] == ["chat", "reasoning"]
        assert tiers.reasoning_engine.asked == []


async def test_a_body_above_the_lenders_limit_stays_in_the_queue() -> None:
    async with two_tiers(reasonings={"max_body_bytes": 1024}) as tiers:
        filling = await tiers.fill_chat()
        waiting = Call(tiers.chat, payload={"prompt": "x" * 2000})
        await asyncio.sleep(0.1)
        await tiers.end(filling, waiting)
        assert waiting.status == 200
        assert tiers.reasoning_engine.asked == []


# --- a client's forgery


@pytest.mark.parametrize("mark", [b"chat", b"chat ", b"chat 0123", b"reasoning", b"", b"\xff"])
async def test_a_client_that_writes_the_headers_itself_gets_what_it_would_get_without(
    mark: bytes,
) -> None:
    """Past them lie reasoning without its limit of tokens, its system prompt and its counts."""
    async with two_tiers() as tiers:
        for headers in ([], [(FORWARDED_HEADER, b"1")]):
            forged = await call(
                mounted(tiers.reasoning, "/api/chat"),
                payload={"prompt": "hi", "max_tokens": 100_000},
                headers=[(BORROWED_HEADER, mark), *headers],
            )
            assert forged.error["code"] == "max_tokens_exceeds_tier_limit"
        assert tiers.reasoning_engine.asked == []
        assert count(tiers.reasoning, "requests_total", status="400") == 2


@pytest.mark.parametrize("mark", [b"chat", b"chat 0123", b"", b"\xff"])
async def test_a_replica_without_the_lenders_key_borrows_nothing(mark: bytes) -> None:
    async with two_tiers() as tiers:
        forged = await call(
            mounted(tiers.reasoning, "/api/chat"),
            payload={"prompt": "hi"},
            headers=[(BORROWED_HEADER, mark), *forwarded_by_a_replica()],
        )
        assert (forged.status, forged.error["code"]) == (403, "borrowing_forbidden")


async def test_the_mark_of_a_tier_does_not_open_its_own_door() -> None:
    """The key is for the other tier: with it, a request of this one would lose its rules."""
    async with two_tiers() as tiers:
        mark = Lender(Tier.REASONING, "", tiers.reasoning.reader.desk.key).mark(Tier.REASONING)
        forged = await call(
            mounted(tiers.reasoning, "/api/chat"),
            payload={"prompt": "hi"},
            headers=[(BORROWED_HEADER, mark.encode()), *forwarded_by_a_replica()],
        )
        assert forged.status == 403


async def test_a_lender_that_was_started_anew_does_not_know_the_old_key() -> None:
    async with two_tiers() as tiers:
        tiers.reasoning.reader.desk = LendingDesk(Tier.REASONING)
        filling = await tiers.fill_chat()
        waiting = Call(tiers.chat, payload={"prompt": "hi"})
        await asyncio.sleep(0.1)
        await tiers.end(filling, waiting)
        assert waiting.status == 200
        assert tiers.reasoning_engine.asked == []


async def test_the_key_shows_nowhere() -> None:
    async with two_tiers() as tiers:
        assert tiers.reasoning.reader.desk.key not in repr(tiers.reasoning)
