"""vLLM's engine with model runner V2 as a replica has it, computing on the CPU, its kernels under
Triton's interpreter: requests of runner V1's suite, and what they may not do to it.

The kernel that samples by `top_k` and `top_p` is more than the interpreter can do, so none of these
requests asks for either. Two streams of each kind are broken off where V1's suite breaks six.
"""

import random
from dataclasses import replace
from typing import Any

import pytest

from serve_app.core.reasoning.trace import ThoughtEnd
from serve_app.engine.interface import Engine
from serve_app.engine.sequence_seeds import MOST_SEED
from tests.engine.real_engine import Asked, streamed
from tests.engine.stream_content import content
from tests.engine.vllm import test_replay
from tests.engine.vllm.test_answer_policies import LONG, Run, leaning, under
from tests.engine.vllm.test_reasoning_stop import texts
from tests.engine.vllm.test_replay import DIRECT, KINDS, PLAN, broken, chat

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]

run, engine = test_replay.run, test_replay.engine
# With a seed each sequence has its own draws, which on runner V2 follow from seed and position.
KINDS_V2 = {
    kind: KINDS[kind]
    for kind in (
        "reasoning",
        "budget of few tokens",
        "schema",
        "schema at its limit",
        "a named tool",
        "stop string",
        "penalties",
        "bad words",
    )
}
SEEDED: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "seed": 3}


def test_the_runner_is_v2(engine: Engine) -> None:
    client: Any = engine
    assert client._client.vllm_config.use_v2_model_runner
    assert all(engine.patches[name] for name in ("single_reasoning", "reasoning_lean"))


@pytest.mark.parametrize("kind", KINDS_V2)
def test_a_stream_goes_on_as_if_nothing_had_happened(run: Run, engine: Engine, kind: str) -> None:
    async def broken_twice() -> list[str]:
        whole = await streamed(engine, KINDS_V2[kind])
        assert whole.status == 200, whole.events
        rng = random.Random(kind)
        cut = rng.randrange(len(whole.events))
        return await broken(engine, kind, whole, cut, rng)

    wrong = run(broken_twice())
    assert not wrong, "\n".join(wrong)


def facts_of(run: Run, engine: Engine, asked: Asked) -> Any:
    (facts,) = run(streamed(engine, asked, None)).generation.sequences.values()
    return facts


def test_a_spent_budget_closes_the_reasoning_and_an_answer_follows(
    run: Run, engine: Engine
) -> None:
    facts = facts_of(run, engine, chat(replace(PLAN, most_tokens=9)))
    assert facts.thought.end is ThoughtEnd.CUT
    assert facts.thought.tokens == 9 + len(facts.thought.marks.closing) - 1
    assert facts.thought.answer_tokens > 3


def test_json_at_its_limit_is_closed(run: Run, engine: Engine) -> None:
    assert facts_of(run, engine, KINDS["schema at its limit"]).closed


def test_reasoning_is_led_to_its_own_end(run: Run, engine: Engine) -> None:
    long = facts_of(run, engine, LONG).thought
    short = facts_of(run, engine, under(leaning(100.0), LONG)).thought
    assert short.end is ThoughtEnd.COMPLETE
    assert short.tokens < long.tokens


def test_samples_with_a_seed_are_the_same_again(run: Run, engine: Engine) -> None:
    asked = chat(DIRECT, n=2, max_tokens=6, **SEEDED)
    both = [run(streamed(engine, asked, None)) for _ in range(2)]
    assert [content(one.parsed).parts for one in both] == [content(both[0].parsed).parts] * 2
    assert texts(both[0], "0") != texts(both[0], "1")


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3, **SEEDED, "seed": MOST_SEED},
        {"bad_words": ["🎉🦜" * 7] * 64},
        {"logit_bias": {str(token): 1 for token in range(900)}},
        {"min_tokens": 2, "stop_token_ids": [*range(100)]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_no_request_ends_the_engine(run: Run, engine: Engine, fields: dict[str, Any]) -> None:
    assert run(streamed(engine, chat(DIRECT, max_tokens=6, **fields), None)).status == 200
    assert not engine.dead
