"""What becomes of a reasoning with a budget, step by step, the same for vLLM's two model runners.

Each runner's own file begins a `Sequenced` on it; here is what is asked of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from hypothesis import strategies as st

from serve_app.core.reasoning.lean import Lean
from serve_app.engine.vllm.lean_params import lean_to_end
from tests.engine.fake_generation import END, PHRASE, START

# It opens a reasoning, and has one token of it.
PROMPT = [50, START, 3]
OPEN_TOKENS = 1
VOCABULARY = 20
CLOSING = (*PHRASE, END)
CONFIG = SimpleNamespace(
    reasoning_start_token_ids=[START],
    reasoning_end_token_ids=[*CLOSING],
    natural_reasoning_end_token_ids=[END],
)
# Of a forced id.
FORCED_LOGIT = 1e8


class Sequenced(Protocol):
    """A sequence in a runner's batch."""

    def logits(self) -> Any:
        """What the runner makes of logits of 0.0, behind what is written: one row."""
        ...

    def write(self, token: int) -> None: ...


class Begin(Protocol):
    """A sequence that joins with an output, which is empty where it begins."""

    def __call__(
        self, output: Sequence[int], budget: int, lean: Lean | None = None
    ) -> Sequenced: ...


def asked(budget: int | None, lean: Lean | None = None) -> Any:
    """What a runner takes of vLLM's sampling parameters."""
    params: Any = SimpleNamespace(thinking_token_budget=budget, extra_args=None)
    if lean is not None:
        lean_to_end(params, lean)
    return params


def forced(sequence: Sequenced) -> int | None:
    """The id that the runner makes the model write next."""
    row = sequence.logits()
    token = int(row.argmax())
    return token if float(row[token]) >= FORCED_LOGIT else None


def written(sequence: Sequenced, wants: Sequence[int]) -> list[int]:
    """What comes out where the model wants `wants`, one after the other, until it has them all."""
    ids: list[int] = []
    wanted = iter(wants)
    want = next(wanted, None)
    while want is not None:
        token = forced(sequence)
        ids.append(want if token is None else token)
        if ids[-1] == want:
            want = next(wanted, None)
        sequence.write(ids[-1])
        assert len(ids) < 100
    return ids


@dataclass(frozen=True)
class Case:
    wants: Sequence[int]
    budget: int
    ids: Sequence[int]


def _cut_at(budget: int) -> Case:
    own, answer = [5] * (budget - OPEN_TOKENS), [9] * 12
    return Case([*own, *answer], budget, [*own, *CLOSING, *answer])


def _as_wanted(*wants: int, budget: int = 6) -> Case:
    return Case(wants, budget, wants)


CASES = {
    **{f"is truncated at {budget}": _cut_at(budget) for budget in (2, 5, 8)},
    "ends itself": _as_wanted(5, 6, END, *[9] * 12),
    "ends itself at once": _as_wanted(END, *[9] * 12),
    "a mark that opens one, in the answer": _as_wanted(5, END, 9, START, *[9] * 12),
    "a second reasoning": _as_wanted(5, END, START, *[9] * 12, END, 9),
    "a second mark inside": Case(
        [5, START, 5, 6, *[9] * 9], 5, [5, START, 5, 6, *CLOSING, *[9] * 9]
    ),
    "a mark for each token": Case([START] * 3 + [9] * 9, 4, [START] * 3 + [*CLOSING] + [9] * 9),
}
# What a model may want: marks and parts of the phrase among other ids.
WANTS = st.lists(st.sampled_from([5, 6, *PHRASE, START, END, 9]), max_size=14)
BUDGETS = st.integers(1, 9)


def expected(wants: Sequence[int], budget: int, *, goes_on: bool) -> list[int]:
    """The same by counting. `goes_on`: with a phrase that the model has begun."""
    ids: list[int] = []
    wanted = iter(wants)
    want = next(wanted, None)
    ended = False
    closing: Iterator[int] = iter(())
    while want is not None:
        token = next(closing, None)
        if token is None and not ended and len(ids) + OPEN_TOKENS >= budget:
            closing = iter(CLOSING[_begun(ids) if goes_on else 0 :])
            token = next(closing)
        ids.append(want if token is None else token)
        ended = ended or ids[-1] == END
        if ids[-1] == want:
            want = next(wanted, None)
    return ids


def _begun(ids: Sequence[int]) -> int:
    """How much of the phrase stands at the end."""
    return max(n for n in range(len(CLOSING)) if tuple(ids[len(ids) - n :]) == CLOSING[:n])


def differs_where_it_joins(begin: Begin, wants: Sequence[int], budget: int) -> list[str]:
    """Where a sequence that joins with a part of its output, as a preempted or resumed one does, is
    not forced as it is where it was never away."""
    unbroken = begin([], budget)
    whole = [*written(begin([], budget), wants), 9, 9]
    forcing: list[int | None] = []
    for token in whole:
        forcing.append(forced(unbroken))
        unbroken.write(token)
    found: list[str] = []
    for cut in range(1, len(whole)):
        joined = begin(whole[:cut], budget)
        for at in range(cut, min(cut + len(CLOSING) + 1, len(whole))):
            if (instead := forced(joined)) != forcing[at]:
                found.append(f"cut at {cut} of {whole}: {instead} at {at}, not {forcing[at]}")
            joined.write(whole[at])
    return found


LEAN = Lean(6.0, 0.25)
BEHIND_REASONING = {"itself": [5, 6, END, 9], "forced": [5] * 8 + [PHRASE[0]]}
