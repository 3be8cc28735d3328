"""A burst of clients on two replicas' edges, with real leases and a real ledger between them."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from serve_app.access.usage import read_usage
from serve_app.api.access import AccessDesk
from serve_app.api.edge import TierEdge
from serve_app.api.field_rules import FieldBounds
from serve_app.core.tiers import Tier
from serve_app.serving.lease_holder import LeaseHolder
from tests.api.asgi import Call, FakeEngine, answers
from tests.api.fake_keys import bearer
from tests.api.test_spending import counting
from tests.builders import a_gate, an_edge
from tests.serving.test_lease_holder import a_scene
from tests.virtual_time import virtual

CLIENTS = 64
BODY = {"prompt": "hi", "max_tokens": 80}
# What the engine reports of each request, and the most that is reserved for it.
PROMPT_TOKENS, MADE_TOKENS = 20, 80
CONTEXT_TOKENS = 100


def a_replica(holder: LeaseHolder) -> TierEdge:
    engine = FakeEngine(
        counting(answers({}, after_s=0.05), prompt_tokens=PROMPT_TOKENS, made=MADE_TOKENS)
    )
    edge = an_edge(engine, gate=a_gate(slots=CLIENTS))
    edge.reader.bounds = FieldBounds(CONTEXT_TOKENS, 10_000)
    edge.access = AccessDesk(holder, holder, tier=Tier.CHAT, model="m")
    return edge


@virtual
async def test_64_clients_on_two_replicas_get_exactly_what_fits(tmp_path: Path) -> None:
    fits = 23
    scene = a_scene(tmp_path, tokens_per_day=fits * CONTEXT_TOKENS + 99)
    async with AsyncExitStack() as stack:
        holders = [(await stack.enter_async_context(scene.holder()))[0] for _ in range(2)]
        edges = [a_replica(holder) for holder in holders]
        key = bearer(scene.secret.encode())
        calls = [Call(edges[number % 2], "", BODY, headers=key) for number in range(CLIENTS)]
        await asyncio.gather(*(call.done for call in calls))
        assert Counter(call.status for call in calls) == {200: fits, 429: CLIENTS - fits}
        refused = [call for call in calls if call.status == 429]
        assert {call.error["code"] for call in refused} == {"insufficient_quota"}
        assert all(int(call.headers["retry-after"]) > 0 for call in refused)
        await asyncio.sleep(0.3)
        (row,) = read_usage(scene.database, key="team")
    assert (row.requests, row.refused) == (fits, CLIENTS - fits)
    assert row.prompt_tokens + row.answer_tokens == fits * CONTEXT_TOKENS
    scene.database.close()


@virtual
async def test_what_an_answer_leaves_over_another_request_may_have(tmp_path: Path) -> None:
    """Each uses 100 of the 200 that it reserves, and all of them together all that there is."""
    scene = a_scene(tmp_path, tokens_per_day=2000)
    async with scene.holder() as (holder, _):
        edge = a_replica(holder)
        edge.reader.bounds = FieldBounds(2 * CONTEXT_TOKENS, 10_000)
        key, served = bearer(scene.secret.encode()), 0
        for _ in range(40):
            call = Call(edge, "", BODY, headers=key)
            await call.done
            served += call.status == 200
        # The last one needs more than the 100 that are left then.
        assert served == 19
    scene.database.close()
