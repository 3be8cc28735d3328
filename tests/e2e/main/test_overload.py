"""Three times more than the chat tier can do: refused honestly, nothing lost, nothing left."""

import re
from collections.abc import Sequence
from statistics import quantiles

from serve_app.core.tiers import Tier
from tests.e2e.client import Reply, client_session, work
from tests.e2e.figures import keep_figures
from tests.e2e.load import Attempts, arrive, measure_capacity_rps
from tests.e2e.site import Site, wait_for

REQUESTS = 200
OVERLOAD = 3.0
TOKENS = 48
HONEST_SHARE = 0.9
# Nine in ten of the refusals. The others may have met a pause of the machine, and end at once too,
# as nothing does that has waited for its turn.
REFUSED_WITHIN_S, SLOWEST_S = 0.5, 3.0
# Streams and whole answers, 100 of each, are refused alike; chance explains this much.
MOST_DIFFERENCE = 0.2
FULL = re.compile(r"chat tier is full: (\d+) requests are ahead.* Come back in (\d+) s")


async def test_three_times_capacity_is_served_or_refused_honestly(site: Site) -> None:
    url, slots = f"{site.url}/api/chat", site.tier(Tier.CHAT)["slots"]
    # Streams and whole answers take turns.
    bodies = [work(f"Story {i}.", TOKENS, stream=i % 2 == 0) for i in range(REQUESTS)]
    before = requests_by_status(site)
    async with client_session() as session:
        warm_up = work("A story.", TOKENS, stream=True)
        capacity_rps = await measure_capacity_rps(session, url, warm_up, slots=slots)
        asked = await arrive(session, url, bodies, rate_per_s=OVERLOAD * capacity_rps)
    wait_for(site.is_idle, "counters back at zero")
    refused = [attempts for attempts in asked if attempts.first.status == 429]
    assert len(asked) == REQUESTS
    assert len(refused) > REQUESTS / 4, "the tier was not overloaded"
    honest = sum(attempts.retry is not None and attempts.retry.served for attempts in refused)
    keep_figures(
        "overload",
        requests=REQUESTS,
        capacity_rps=round(capacity_rps, 2),
        served_at_once=REQUESTS - len(refused),
        refused=len(refused),
        served_on_retry=honest,
        honest_share=round(honest / len(refused), 3),
        slowest_refusal_ms=round(max(attempts.first.e2e_s for attempts in refused) * 1e3),
    )
    assert_all_ended(asked)
    assert_refusals_say_enough([attempts.first for attempts in refused])
    assert_streams_are_refused_alike(asked)
    retries = [attempts for attempts in asked if attempts.retry is not None]
    assert_counted(site, before, served=len(asked) - len(refused) + honest + slots)
    assert len(retries) == len(refused)
    assert honest / len(refused) >= HONEST_SHARE


def assert_all_ended(asked: Sequence[Attempts]) -> None:
    replies = [reply for attempts in asked for reply in (attempts.first, attempts.retry) if reply]
    assert [reply for reply in replies if not reply.served and reply.status != 429] == []


def assert_refusals_say_enough(refusals: Sequence[Reply]) -> None:
    for refusal in refusals:
        said = FULL.search(refusal.error["message"])
        assert said, refusal.text
        assert refusal.headers["retry-after"] == said[2]
        assert refusal.error["type"] == "rate_limit_error"
        assert refusal.error["code"] in ("queue_full", "wait_too_long")
    took_s = [refusal.e2e_s for refusal in refusals]
    assert quantiles(took_s, n=10)[-1] < REFUSED_WITHIN_S, sorted(took_s)
    assert max(took_s) < SLOWEST_S


def assert_streams_are_refused_alike(asked: Sequence[Attempts]) -> None:
    streams, whole = (
        sum(attempts.first.status == 429 for attempts in half) / len(half)
        for half in (asked[0::2], asked[1::2])
    )
    assert abs(streams - whole) < MOST_DIFFERENCE


def requests_by_status(site: Site) -> dict[str, float]:
    metrics = site.metrics_now()
    return {
        status: metrics.value("tierserve_requests_total", tier="chat", status=status)
        for status in ("200", "429", "499", "500")
    }


def assert_counted(site: Site, before: dict[str, float], *, served: int) -> None:
    now = requests_by_status(site)
    assert now["200"] - before["200"] == served
    assert now["429"] - before["429"] > 0
    assert (now["499"], now["500"]) == (before["499"], before["500"])
