"""What a key pays for a stream that goes on at another replica, before a real ledger."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.api.access import QuotaExceededError
from serve_app.core.access.lease import Amounts, Usage
from serve_app.serving import lease_holder
from serve_app.serving.lease_holder import LeaseHolder, MovedGrant
from tests.serving.test_lease_holder import Scene, a_scene, key_of, until

REST = Amounts(tokens=80)
MADE = Usage(answer_tokens=70)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = a_scene(tmp_path, tokens_per_day=1000)
    yield made
    made.database.close()


async def begun(holder: LeaseHolder, scene: Scene, tokens: int = 100) -> None:
    """A stream that the ledger knows of."""
    key = key_of(holder, scene)
    grant = await holder.reserve(key, Amounts(requests=1, tokens=tokens), "stream")
    await grant.acknowledged()
    name = holder.book.replica
    await until(lambda: followed(scene, name))


def followed(scene: Scene, replica: str) -> dict[str, int]:
    state = scene.ledger._state
    assert state is not None
    account = state.replicas[replica].keys.get("team")
    return {} if account is None else dict(account.followed)


async def left(holder: LeaseHolder, scene: Scene) -> int:
    """What this replica may still have, to the last token."""
    taken, key = 0, key_of(holder, scene)
    for tokens in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        try:
            await holder.reserve(key, Amounts(tokens=tokens))
        except QuotaExceededError:
            continue
        taken += tokens
    return taken


async def test_once_the_death_is_proven_the_rest_is_for_nothing(scene: Scene) -> None:
    async with scene.holder() as (lost, line), scene.holder() as (other, _):
        await begun(lost, scene)
        line.cut = True
        grant = await other.take_over(key_of(other, scene), REST, "stream")
        assert isinstance(grant, MovedGrant)
        assert grant.grant is not None
        scene.ledger.forget(lost.book.replica)
        await until(lambda: other.book.is_covered(grant.claim))
        grant.settle(MADE)
        # But for what the dead one had reserved, and what was prepaid there.
        assert 1000 - 100 - 4 * 100 <= await left(other, scene) <= 1000 - 100


async def test_without_a_proof_the_rest_is_paid_for(scene: Scene) -> None:
    async with scene.holder() as (lost, line), scene.holder() as (other, _):
        await begun(lost, scene)
        line.cut = True
        grant = await other.take_over(key_of(other, scene), REST, "stream")
        grant.settle(MADE)
        assert await left(other, scene) <= 1000 - 100 - 70


async def test_where_nothing_is_left_the_rest_waits_for_the_proof(scene: Scene) -> None:
    async with scene.holder() as (lost, line), scene.holder() as (other, _):
        await begun(lost, scene, tokens=960)
        line.cut = True
        waiting = asyncio.create_task(other.take_over(key_of(other, scene), REST, "stream"))
        await until(lambda: other.book._claims)
        assert not waiting.done()
        scene.ledger.forget(lost.book.replica)
        grant = await waiting
        assert isinstance(grant, MovedGrant)
        assert grant.grant is None
        grant.settle(MADE)
        assert not other.book._claims


async def test_where_nothing_is_left_and_nothing_is_proven_it_is_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_holder, "PROOF_LIMIT_S", 0.2)
    async with scene.holder() as (lost, _), scene.holder() as (other, _):
        await begun(lost, scene, tokens=960)
        with pytest.raises(QuotaExceededError):
            await other.take_over(key_of(other, scene), REST, "stream")
        assert not other.book._claims


async def test_a_key_without_limits_of_tokens_claims_nothing(tmp_path: Path) -> None:
    scene = a_scene(tmp_path, requests_per_minute=100)
    async with scene.holder() as (holder, _):
        grant = await holder.take_over(key_of(holder, scene), REST, "stream")
        assert not isinstance(grant, MovedGrant)
        grant.settle(MADE)
    scene.database.close()
