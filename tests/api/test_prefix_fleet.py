"""Conversations over two and four replicas in virtual time: what finding prefixes again is for."""

import pytest

from tests.api.prefix_fleet import FleetFigures, play
from tests.virtual_time import virtual

# Minutes of a tier's time, seconds of this machine's.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
USERS, SETTLE_S, COUNTS_S = 24, 20.0, 60.0


async def figures(replicas: int, *, forward: bool, **talk: int) -> FleetFigures:
    return await play(
        replicas, forward=forward, users=USERS, settle_s=SETTLE_S, counts_s=COUNTS_S, **talk
    )


@virtual
async def test_prefixes_are_found_again_over_replicas() -> None:
    alone = await figures(1, forward=True)
    for replicas in (2, 4):
        without = await figures(replicas, forward=False)
        found = await figures(replicas, forward=True)
        assert without.hit_rate < 0.85 * alone.hit_rate
        assert found.hit_rate >= 0.9 * alone.hit_rate
        assert found.mean_ttft_s <= 0.8 * without.mean_ttft_s
        assert found.balance <= 1.2
        assert found.balance_tokens <= 1.2


@virtual
async def test_short_conversations_stay_where_they_come_in() -> None:
    without, found = [
        await figures(2, forward=forward, prompt_tokens=100, turns=-1) for forward in (False, True)
    ]
    assert found.forwarded == 0
    assert found.mean_ttft_s == pytest.approx(without.mean_ttft_s, rel=0.02)
