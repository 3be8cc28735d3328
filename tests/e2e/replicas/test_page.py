"""The page in Chromium in front of a full tier: queued, refused, and answered in the end."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import httpx
import pytest
from playwright.sync_api import Browser, expect

from serve_app.core.tiers import Tier
from tests.e2e.browser import a_browser, an_open_page, choose, ended, send
from tests.e2e.client import work
from tests.e2e.site import Site, wait_for

# Of the reasoning tier, which has one replica.
SLOTS = 8
QUEUE = 4
# They last until a test ends them.
LONG_TOKENS = 3400
# A Retry-After, and what is ahead then.
RETRIED_WITHIN_MS = 180_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as started:
        yield started


def test_a_full_tier_shows_the_place_in_its_queue_and_counts_down_until_it_has_room_or_one_cancels(
    browser: Browser, site: Site
) -> None:
    with an_open_page(browser, site.url) as first, an_open_page(browser, site.url) as second:
        for page in (first, second):
            page.get_by_role("radio", name="Reasoning").check()
            choose(page, Most_tokens_of_an_answer="20")
        with a_full_tier(site) as threads:
            send(first, "Who is first?")
            expect(first.locator(".waiting")).to_contain_text("In the queue: next.")
            for number in range(QUEUE - 1):
                threads.submit(site.post, "/api/reasoning", work(f"{number}", 1, stream=False))
            wait_for(lambda: site.tier(Tier.REASONING)["queue_depth"] == QUEUE, "a full queue")
            send(second, "And who waits?")
            waiting = second.locator(".waiting")
            expect(waiting).to_contain_text("The tier is full. Asking again in")
            waiting.get_by_role("button", name="Cancel").click()
            expect(second.locator(".ending")).to_contain_text("Stopped.")
            second.get_by_role("button", name="Try again").click()
            expect(waiting).to_contain_text("Asking again in")
        ended(first)
        # It asks again by itself.
        ended(second, RETRIED_WITHIN_MS)
        for page in (first, second):
            expect(page.locator("[data-figure=tokens]")).to_have_text("20 tokens")


@contextmanager
def a_full_tier(site: Site) -> Iterator[ThreadPoolExecutor]:
    """Every slot of the reasoning tier is taken until the block is left, or for a long answer."""
    body = work("all", LONG_TOKENS, stream=True, n=SLOTS, temperature=1.0)
    over = Event()

    def take() -> None:
        with httpx.stream("POST", f"{site.url}/api/reasoning", json=body, timeout=None) as answer:
            for _ in answer.iter_raw():
                if over.is_set():
                    return

    with ThreadPoolExecutor(QUEUE) as threads:
        threads.submit(take)
        try:
            wait_for(lambda: site.tier(Tier.REASONING)["running"] == SLOTS, "a full tier")
            yield threads
        finally:
            over.set()
