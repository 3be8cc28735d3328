"""What is asked: batches up to the slots, contexts that fit, and one wave after the other."""

import pytest

from loadtest.calibration.waves import Answered, Busy, Wave, ask_rounds, plan
from loadtest.client.chat import open_session
from loadtest.errors import UserError
from loadtest.load.targets import Target
from tests.loadtest.load.fake_openai import FakeOpenAI, Reply


def waves_of(slots: int, prompt_room: int = 3000) -> list[Wave]:
    return [wave for wave in plan(slots, prompt_room) if isinstance(wave, Wave)]


def test_batches_double_up_to_the_slots() -> None:
    decode = [wave for wave in waves_of(29) if wave.prompt_tokens == 16 and wave.new_tokens > 4]
    assert [wave.sequences for wave in decode] == [1, 2, 4, 8, 16, 29]


def test_one_slot_is_one_batch() -> None:
    decode = [wave for wave in waves_of(1) if wave.prompt_tokens == 16 and wave.new_tokens > 4]
    assert [wave.sequences for wave in decode] == [1]


def test_no_prompt_is_longer_than_the_server_takes() -> None:
    assert max(wave.prompt_tokens for wave in waves_of(8, 600)) == 512
    assert max(wave.prompt_tokens for wave in waves_of(8, 100)) == 16


def test_contexts_are_of_two_lengths_and_no_more_sequences_than_slots() -> None:
    context = [wave for wave in waves_of(6) if wave.prompt_tokens > 256 and wave.new_tokens > 4]
    assert [(wave.sequences, wave.prompt_tokens) for wave in context] == [(6, 512), (4, 1024)]


def test_from_a_few_sequences_on_each_batch_is_kept_busy_too() -> None:
    busy = [wave.sequences for wave in plan(29, 3000) if isinstance(wave, Busy)]
    assert busy == [4, 8, 16, 29]


async def ask(
    server: FakeOpenAI, waves: list[Wave | Busy], rounds: int, limit_s: float
) -> list[Answered]:
    answered: list[Answered] = []
    target = Target(f"{server.url}/api/chat/v1/chat/completions", "chat", 1024, 4096)
    async with open_session(5.0) as session:
        await ask_rounds(
            session,
            target,
            "chat",
            waves,
            rounds=rounds,
            limit_s=limit_s,
            on_wave=answered.append,
            settle_s=0.0,
        )
    return answered


async def test_a_wave_is_so_many_requests_that_no_cache_knows() -> None:
    async with FakeOpenAI() as server:
        answered = await ask(server, [Wave(3, 20, 4), Wave(1, 20, 4)], rounds=2, limit_s=60.0)
        prompts = [body["messages"][0]["content"] for body in server.bodies]
    assert [len(wave.records) for wave in answered] == [3, 1, 3, 1]
    assert len(set(prompts)) == 8
    assert all(body["ignore_eos"] and body["max_tokens"] == 4 for body in server.bodies)


async def test_busy_clients_ask_again_when_they_have_their_answer() -> None:
    async with FakeOpenAI() as server:
        [wave] = await ask(server, [Busy(3)], rounds=1, limit_s=60.0)
    sent_s = sorted(record.sent_s or 0.0 for record in wave.records)
    ended_s = sorted(record.token_s[-1] for record in wave.records)
    assert len(sent_s) == 12
    assert sent_s[2] < ended_s[0] < sent_s[3]
    assert len({record.input_tokens_asked for record in wave.records}) > 3


async def test_no_round_begins_that_would_end_too_late() -> None:
    async with FakeOpenAI() as server:
        answered = await ask(server, [Wave(1, 20, 4)], rounds=5, limit_s=0.0)
    assert len(answered) == 1


async def test_an_answer_without_text_is_left_out() -> None:
    silent = FakeOpenAI(lambda body, number: Reply(answer=0 if number == 1 else 4))
    async with silent as server:
        answered = await ask(server, [Wave(1, 20, 4)], rounds=2, limit_s=60.0)
    assert len(answered) == 1


async def test_a_server_that_refuses_is_said() -> None:
    refusing = FakeOpenAI(lambda body, number: Reply(status=429, code="queue_full"))
    async with refusing as server:
        with pytest.raises(UserError, match="queue_full"):
            await ask(server, [Wave(1, 20, 4)], rounds=1, limit_s=60.0)
