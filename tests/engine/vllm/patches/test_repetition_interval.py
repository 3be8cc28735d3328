"""How often vLLM looks for a repetition."""

from collections.abc import Sequence
from typing import Any, cast

from serve_app.engine.vllm.patches.repetition_interval import (
    CHECK_EVERY_TOKENS,
    checked_at_intervals,
)


def test_a_repetition_is_looked_for_at_every_sixteenth_token_only() -> None:
    looked: list[int] = []

    def check(token_ids: Sequence[int], params: Any) -> bool:
        looked.append(len(token_ids))
        return params == "found"

    rarely = cast("Any", checked_at_intervals)(check)
    reported = [rarely([5] * length, "found") for length in range(1, 4 * CHECK_EVERY_TOKENS + 1)]
    assert looked == [CHECK_EVERY_TOKENS * times for times in (1, 2, 3, 4)]
    assert sum(reported) == len(looked)
    assert not rarely([5] * CHECK_EVERY_TOKENS, "nothing")
