"""Answer policies on real vLLM, with the reasoning model that this repository trains."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from serve_app.core.reasoning.answer_policy import AnswerPolicy, PolicyPlan
from serve_app.core.reasoning.answer_value import final_answer
from serve_app.core.reasoning.trace import ThoughtEnd
from serve_app.engine.interface import Engine
from tests.engine.real_engine import Asked, Stream, streamed
from tests.engine.stream_content import content
from tests.engine.vllm import test_replay
from tests.engine.vllm.test_reasoning_stop import texts, whole
from tests.engine.vllm.test_replay import bound, chat

# Importing vLLM takes longer than all quick tests of this folder, and warns of what is its own.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

Run = Callable[[Any], Any]
run, engine = test_replay.run, test_replay.engine
EXIT = PolicyPlan(AnswerPolicy.EARLY_EXIT, trial_every_tokens=5, trial_tokens=8)
# micro-r1 reasons on it in 104 tokens, and checks its result in the last 25 of them.
LONG = chat(
    messages=[
        {
            "role": "user",
            "content": "A ticket costs 21 dollars for adults and 9 dollars for children. Leo pays "
            "for 3 adults and 5 children. How many dollars is that?",
        }
    ]
)


def under(policy: PolicyPlan, asked: Asked) -> Asked:
    return replace(asked, policy=policy)


def answer_of(stream: Stream) -> str | None:
    if stream.events[0].startswith("data: "):
        return final_answer(texts(stream)["content"])
    (choice,) = json.loads("".join(stream.events))["choices"]
    return final_answer(choice["message"]["content"])


def ends(stream: Stream) -> list[Any]:
    return [part for part in content(stream.parsed).parts["0"] if part[0] == "end"]


@pytest.mark.parametrize("form", [whole, lambda asked: asked], ids=["whole", "streamed"])
def test_reasoning_ends_once_its_trial_answers_agree(
    run: Run, engine: Engine, form: Callable[[Asked], Asked]
) -> None:
    plain = run(streamed(engine, form(LONG), None))
    early = run(streamed(engine, form(under(EXIT, LONG)), None))
    (long,), (short,) = plain.generation.sequences.values(), early.generation.sequences.values()
    assert long.thought is not None
    assert short.thought is not None
    assert short.thought.cut_by == "early_exit"
    assert short.thought.tokens - len(short.thought.marks.closing) < long.thought.tokens
    # So early the answer may be another one, but there is one.
    assert short.thought.answer_tokens > 3
    assert answer_of(plain) == "108"
    trials = early.generation.unseen
    assert 2 <= len(trials) <= short.thought.tokens // EXIT.trial_every_tokens
    assert all(0 < facts.tokens <= EXIT.trial_tokens for facts in trials)
    assert engine.has_finished(early.generation)


def test_a_stream_that_ended_early_goes_on_elsewhere(run: Run, engine: Engine) -> None:
    """There it is not asked for trial answers: what they have decided is in the journal."""
    asked = under(EXIT, LONG)

    async def gone_on() -> list[Any]:
        base = await streamed(engine, asked)
        closed = [at for at, journal in enumerate(base.journals) if "closed" in journal]
        wrong: list[Any] = []
        for at in closed[::7]:
            again = await streamed(engine, asked, base.journals[at])
            wrong += test_replay.differences("reasoning", again, base, at + 1)
            assert again.generation.unseen == []
        before = await streamed(engine, asked, base.journals[closed[0] // 2])
        assert ends(before) == ends(base)
        return wrong

    assert run(gone_on()) == []


PAIR = PolicyPlan(AnswerPolicy.PAIR, trial_every_tokens=5, trial_tokens=8, samples=2)
# micro-r1 does not need to reason for it, and does so in 72 tokens.
EASY = chat(messages=[{"role": "user", "content": "What is 26 * 4 + 7?"}])


@pytest.mark.parametrize("form", [whole, lambda asked: asked], ids=["whole", "streamed"])
def test_a_direct_answer_stands_once_the_reasoning_says_the_same(
    run: Run, engine: Engine, form: Callable[[Asked], Asked]
) -> None:
    found = run(streamed(engine, form(under(PAIR, EASY)), None)).generation
    (facts,) = found.sequences.values()
    assert facts.thought is not None
    assert found.direct is not None
    assert facts.thought.cut_by == "pair"
    assert facts.thought.answer_tokens == found.direct.tokens
    assert found.direct not in found.unseen
    assert engine.has_finished(found)


def test_a_direct_answer_that_differs_changes_nothing(run: Run, engine: Engine) -> None:
    plain = run(streamed(engine, LONG, None))
    pair = run(streamed(engine, under(PAIR, LONG), None))
    assert texts(pair) == texts(plain)
    assert pair.generation.direct in pair.generation.unseen
    assert engine.has_finished(pair.generation)


def test_a_stream_of_a_pair_goes_on_elsewhere(run: Run, engine: Engine) -> None:
    """Behind the reasoning's end there is no direct answer: the journal has what it has become."""
    asked = under(PAIR, EASY)

    async def gone_on() -> list[Any]:
        base = await streamed(engine, asked)
        closed = [at for at, journal in enumerate(base.journals) if "closed" in journal]
        answered = [at for at, journal in enumerate(base.journals) if journal == base.journals[-1]]
        wrong: list[Any] = []
        for at in answered[:-1]:
            again = await streamed(engine, asked, base.journals[at])
            wrong += test_replay.differences("reasoning", again, base, at + 1)
            assert again.generation.direct is None
        before = await streamed(engine, asked, base.journals[closed[0] // 2])
        assert ends(before) == ends(base)
        return wrong

    assert run(gone_on()) == []


def leaning(most: float) -> PolicyPlan:
    return PolicyPlan(AnswerPolicy.LEAN, lean_most=most, lean_begins_at=0.0)


def test_reasoning_is_led_to_its_own_end(run: Run, engine: Engine) -> None:
    """With n and a seed too; a lean of nothing changes nothing."""
    plain = run(streamed(engine, LONG, None))
    assert texts(run(streamed(engine, under(leaning(0.0), LONG), None))) == texts(plain)
    (long,) = plain.generation.sequences.values()
    assert long.thought is not None
    led = run(streamed(engine, under(leaning(100.0), LONG), None))
    (short,) = led.generation.sequences.values()
    assert short.thought is not None
    assert short.thought.end is ThoughtEnd.COMPLETE
    assert short.thought.tokens < long.thought.tokens
    more = replace(LONG, body={**LONG.body, "n": 3, "temperature": 0.7, "seed": 4})
    both = [run(streamed(engine, under(leaning(30.0), more), None)) for _ in range(2)]
    assert texts(both[0], "2") == texts(both[1], "2")
    for facts in both[0].generation.sequences.values():
        assert facts.thought is not None
        assert facts.thought.end is ThoughtEnd.COMPLETE
        assert facts.thought.answer_tokens > 3


def test_a_leaning_stream_goes_on_elsewhere(run: Run, engine: Engine) -> None:
    asked = under(leaning(20.0), LONG)

    async def gone_on() -> list[Any]:
        base = await streamed(engine, asked)
        again = await streamed(engine, asked, base.journals[20])
        return test_replay.differences("reasoning", again, base, 21)

    assert run(gone_on()) == []


VOTE = PolicyPlan(AnswerPolicy.VOTE, samples=5)


@pytest.mark.parametrize("form", [whole, lambda asked: asked], ids=["whole", "streamed"])
def test_the_client_gets_one_sample_of_the_majority(
    run: Run, engine: Engine, form: Callable[[Asked], Asked]
) -> None:
    """Which one it is is known by the same samples, asked for one by one."""
    seeded = {"temperature": 0.9, "seed": 5}
    single = [
        run(streamed(engine, form(chat(temperature=0.9, seed=5 + at)), None)) for at in range(5)
    ]
    stream = run(streamed(engine, form(under(VOTE, chat(**seeded))), None))
    found = stream.generation.verdict
    assert found is not None
    said = [answer_of(one) for one in single]
    assert answer_of(stream) == said[found.sample]
    alike = [value for value in said if value == said[found.sample]]
    assert 1 <= found.agreeing <= len(alike)
    assert found.samples <= 5
    (facts,) = stream.generation.sequences.values()
    assert len(stream.generation.unseen) == 4
    assert facts.tokens == single[found.sample].generation.sequences[0].tokens
    assert engine.has_finished(stream.generation)
    if stream.events[0].startswith("data: "):
        chosen = single[found.sample]
        assert texts(stream) == texts(chosen)
        assert ends(stream) == ends(chosen)


def test_json_is_voted_on(run: Run, engine: Engine) -> None:
    form = bound(
        {
            "type": "object",
            "properties": {"answer": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["answer"],
            "additionalProperties": False,
        }
    )
    asked = chat(temperature=0.7, seed=3, response_format=form)
    stream = run(streamed(engine, under(VOTE, asked), None))
    answer = json.loads(texts(stream)["content"])
    assert 0 <= answer["answer"] <= 9
    assert stream.generation.verdict is not None
    assert stream.generation.verdict.agreeing >= 1
