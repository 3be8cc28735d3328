"""What the gate promises is the first token: of prompts and answers of all lengths, at once."""

import math
import random
from collections.abc import Sequence

import pytest

from tests.e2e.client import client_session, work
from tests.e2e.figures import keep_figures
from tests.e2e.load import Attempts, swell
from tests.e2e.site import Site, wait_for

# So many, and more, ever faster, until this part was refused: the machine may be a fast one.
LEAST, MOST, REFUSED = 100, 1000, 0.2
# Of the tier's promise, and of an engine step with a whole chunk of prompts on two CPU cores.
MAX_WAIT_S, STEP_S = 10.0, 2.0
IN_TIME, HONEST = 0.99, 0.9
WORDS = [
    "the",
    "old",
    "lighthouse",
    "keeper",
    "counted",
    "seven",
    "ships",
    "before",
    "the",
    "storm",
    "came",
    "in",
]


def prompt_of(tokens: int, rng: random.Random) -> str:
    """About so many tokens, and none that an earlier one has begun with."""
    return " ".join([f"{rng.random():.6f}", *(rng.choice(WORDS) for _ in range(tokens - 6))])


def drawn(rng: random.Random, least: int, most: int) -> int:
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))


@pytest.mark.parametrize(
    ("longest_prompt", "longest_answer", "rate_rps"),
    [(2000, 60, 6.0), (40, 300, 8.0), (1500, 300, 8.0)],
    ids=["long prompts", "long answers", "both"],
)
async def test_who_is_admitted_has_a_first_token_in_time(
    site: Site, longest_prompt: int, longest_answer: int, rate_rps: float
) -> None:
    rng = random.Random(longest_prompt)
    bodies = (
        work(
            prompt_of(drawn(rng, 10, longest_prompt), rng),
            drawn(rng, 10, longest_answer),
            stream=True,
        )
        for _ in range(MOST)
    )
    async with client_session() as session:
        asked = await swell(
            session,
            f"{site.url}/api/chat",
            bodies,
            rate_per_s=rate_rps,
            refused_fraction=REFUSED,
            least=LEAST,
        )
    wait_for(site.is_idle, "counters back at zero")
    refused = [attempts for attempts in asked if attempts.first.status == 429]
    honest = sum(attempts.last.served for attempts in refused)
    late = late_ones(asked)
    served = sum(attempts.last.served for attempts in asked)
    keep_figures(
        f"first tokens, prompts to {longest_prompt}, answers to {longest_answer}",
        requests=len(asked),
        refused=len(refused),
        served_on_retry=honest,
        late=len(late),
        slowest_first_token_s=round(max(v.last.ttft_s for v in asked if v.last.served), 2),
    )
    assert len(refused) > len(asked) / 10, "the tier was not overloaded"
    assert len(late) <= (1 - IN_TIME) * served + 1
    assert honest >= HONEST * len(refused)


def late_ones(asked: Sequence[Attempts]) -> list[Attempts]:
    """Who waited for longer than promised; who comes back may wait twice as long."""
    return [
        attempts
        for attempts in asked
        if attempts.last.served
        and attempts.last.ttft_s > (1 if attempts.retry is None else 2) * MAX_WAIT_S + STEP_S
    ]
