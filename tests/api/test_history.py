"""The last hour of the tiers: what a sample has, and how long it is kept."""

from dataclasses import dataclass
from typing import Any

from serve_app.api.history import KEPT_S, PERIOD_S, WINDOW_S, StatusHistory
from serve_app.telemetry import TTFT_BUCKETS_S, WAIT_BUCKETS_S
from tests.api.web_client import FakeTiers, a_client, a_replica


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def observed(requests: int = 0, *, refused: int = 0, slow: int = 0) -> dict[str, Any]:
    """`requests` with a first token within the second bound, `slow` beyond all of them."""
    ttft = [0, *[requests] * (len(TTFT_BUCKETS_S) - 1), requests + slow]
    wait = [*[requests] * len(WAIT_BUCKETS_S), requests + slow]
    return {"ttft": ttft, "queue_wait": wait, "refused": refused}


def described(**replicas: dict[str, Any]) -> list[dict[str, Any]]:
    """A chat tier with these replicas, by what they have observed."""
    entry: dict[str, Any] = {
        "tier": "chat",
        "replicas_running": len(replicas),
        "running": 3,
        "slots": 8,
        "queue_depth": 1,
        "output_tokens_per_s": 120.0,
        "replicas": [{"replica": name, "observed": seen} for name, seen in replicas.items()],
    }
    return [entry]


def a_history(clock: Clock) -> StatusHistory:
    async def describe() -> list[dict[str, Any]]:
        return []

    return StatusHistory(describe, clock)


def test_quantiles_and_refusals_are_those_of_the_last_minute() -> None:
    clock = Clock()
    history = a_history(clock)
    history.take(described(a=observed(1000, refused=50)))
    clock.now_s += 5
    chat = history.take(described(a=observed(1010, refused=52))).tiers["chat"]
    assert (chat.answered, chat.refused) == (10, 2)
    assert chat.ttft_p50_s is not None
    assert TTFT_BUCKETS_S[0] < chat.ttft_p50_s <= TTFT_BUCKETS_S[1]
    clock.now_s += WINDOW_S + 1
    chat = history.take(described(a=observed(1010, refused=52))).tiers["chat"]
    assert (chat.answered, chat.refused, chat.ttft_p50_s) == (0, 0, None)


def test_a_new_replica_counts_from_its_start_and_a_stopped_one_takes_nothing_away() -> None:
    clock = Clock()
    history = a_history(clock)
    history.take(described(a=observed(500)))
    clock.now_s += 5
    chat = history.take(described(b=observed(3, refused=1))).tiers["chat"]
    assert (chat.answered, chat.refused) == (3, 1)


def test_what_was_slower_than_every_bound_is_at_the_last_one() -> None:
    clock = Clock()
    history = a_history(clock)
    history.take(described(a=observed()))
    clock.now_s += 5
    chat = history.take(described(a=observed(slow=4))).tiers["chat"]
    assert chat.ttft_p95_s == TTFT_BUCKETS_S[-1]


def test_replicas_that_report_no_observations_leave_the_rest_known() -> None:
    entry = described(a=observed())
    del entry[0]["replicas"][0]["observed"]
    chat = a_history(Clock()).take(entry).tiers["chat"]
    assert (chat.running, chat.slots, chat.ttft_p50_s, chat.answered) == (3, 8, None, 0)


def test_an_hour_is_kept_and_only_what_is_newer_is_given() -> None:
    clock = Clock()
    history = a_history(clock)
    for _ in range(int(KEPT_S / PERIOD_S) + 100):
        clock.now_s += PERIOD_S
        history.take(described(a=observed()))
    samples = history.samples()
    assert samples[-1].at_s - samples[0].at_s <= KEPT_S
    assert len(samples) == KEPT_S / PERIOD_S
    assert history.samples(clock.now_s - 2 * PERIOD_S) == samples[-2:]


async def test_it_begins_when_somebody_asks_how_the_tiers_are() -> None:
    replicas = a_replica(observed=observed(2))
    tiers = FakeTiers({tier: [replicas] for tier in FakeTiers().replicas})
    async with a_client(tiers) as client:
        assert (await client.get("/api/history")).json() == {"samples": []}
        await client.get("/api/tiers")
        await client.get("/api/tiers")
        (sample,) = (await client.get("/api/history")).json()["samples"]
        later = await client.get("/api/history", params={"since": sample["at_s"]})
        refused = await client.get("/api/history", params={"since": "yesterday"})
    assert sample["tiers"]["chat"]["slots"] == 8
    assert later.json() == {"samples": []}
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "since")
