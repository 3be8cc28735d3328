"""A grammar that takes too much of the engine's time is rejected, and no other."""

from typing import Any, cast

from serve_app.engine.vllm.patches.grammar_budget import BUDGET_S, TOKEN_S, budgeted_grammar


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def a_grammar(step_s: float) -> Any:
    clock = Clock()

    class Grammar:
        def fill_bitmask(self, bitmask: Any, idx: int) -> None:
            clock.now_s += step_s / 2

        def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
            clock.now_s += step_s / 2
            return tokens != [0]

    return cast("Any", budgeted_grammar)(Grammar, clock)()


def accepted_tokens(grammar: Any, most: int) -> int:
    for number in range(most):
        grammar.fill_bitmask(None, 0)
        if not grammar.accept_tokens("id", [1]):
            return number
    return most


def test_steps_within_the_tokens_allowance_never_end_it() -> None:
    assert accepted_tokens(a_grammar(TOKEN_S), 10_000) == 10_000


def test_slow_steps_end_it_once_they_have_used_the_budget() -> None:
    assert accepted_tokens(a_grammar(TOKEN_S + 0.1), 1000) in (9, 10)
    assert accepted_tokens(a_grammar(2 * BUDGET_S), 1000) == 0


def test_what_was_saved_counts_for_no_more_than_the_budget() -> None:
    grammar = a_grammar(0.0)
    accepted_tokens(grammar, 1000)
    assert grammar.left_s == BUDGET_S


def test_what_the_grammar_rejects_stays_rejected() -> None:
    assert not a_grammar(0.0).accept_tokens("id", [0])


def test_a_draft_that_is_walked_has_the_allowance_of_its_tokens() -> None:
    clock = Clock()

    class Grammar:
        def validate_tokens(self, tokens: list[int]) -> list[int]:
            clock.now_s += TOKEN_S * len(tokens)
            return tokens[:-1] if tokens[-1] == 0 else tokens

    grammar: Any = cast("Any", budgeted_grammar)(Grammar, clock)()
    for _ in range(1000):
        assert grammar.validate_tokens([1, 2, 3]) == [1, 2, 3]
    assert grammar.left_s > 0.99 * BUDGET_S
    grammar.validate_tokens([1, 0])
    assert grammar.left_s < 0.995 * BUDGET_S
