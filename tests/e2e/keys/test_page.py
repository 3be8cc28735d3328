"""The page in Chromium, in front of a service with keys: entered, refused, revoked and expired."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.browser import a_browser, an_open_page, ask, choose, ended, send
from tests.e2e.keys.conftest import KeySite
from tests.e2e.site import wait_for

WRONG = f"ts-{'a' * 8}-{'b' * 43}"
KEPT_IN = """key => ['sessionStorage', 'localStorage']
    .filter(name => JSON.stringify({...window[name]}).includes(key))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as started:
        yield started


@pytest.fixture
def page(browser: Browser, key_site: KeySite) -> Iterator[Page]:
    with an_open_page(browser, key_site.site.url) as visited:
        yield visited


def test_a_key_is_asked_for_once_it_is_no_longer_taken_while_the_page_is_open(
    key_site: KeySite, page: Page
) -> None:
    revoked, expiring = key_site.add("mia"), key_site.add("tom")
    expect(page.get_by_role("dialog")).to_contain_text("A key is needed")
    enter(page, WRONG)
    expect(page.get_by_role("dialog")).to_contain_text("does not take this key")
    enter(page, revoked)
    answered(page)
    key_site.store.revoke("mia")
    wait_for(lambda: key_site.statuses_everywhere(revoked) == {401}, "revoked everywhere", 10)
    asks_for_another(page, expiring)
    past_s = time.time() - 1
    key_site.store.change(replace(key_site.store.get("tom"), expires_at_s=past_s))
    wait_for(lambda: key_site.statuses_everywhere(expiring) == {401}, "expired everywhere", 10)
    asks_for_another(page, key_site.add("zoe"))
    # What was answered before is still there.
    expect(page.locator("article.answer .markdown")).to_have_count(3)


def test_a_user_sees_what_he_has_used_and_an_admin_sees_the_tiers(
    key_site: KeySite, page: Page
) -> None:
    user, admin = key_site.add("bob"), key_site.add("head", admin=True)
    enter(page, user)
    answer = answered(page)
    answer.get_by_role("button", name="Show as code").click()
    expect(page.get_by_role("dialog").locator("code")).to_contain_text("$TIERSERVE_KEY")
    assert user not in page.content()
    page.keyboard.press("Escape")
    # The page asks for usage when it is opened, and then twice a minute.
    wait_for(lambda: key_site.spent("bob") > 0, "what was used to be counted")
    page.get_by_role("link", name="Status").click()
    expect(page.get_by_role("alert")).to_contain_text("for administrators")
    expect(page.get_by_role("region", name="Usage by key")).to_contain_text("bob")
    expect(page.get_by_role("region", name="Chat")).to_have_count(0)
    page.get_by_role("alert").get_by_role("button", name="Key").click()
    enter(page, admin)
    for tier in ("Chat", "Reasoning"):
        replicas = page.get_by_role("region", name=tier).get_by_role("table")
        expect(replicas).to_contain_text("ready")
    expect(page.get_by_role("region", name="Usage by key")).to_contain_text("bob")


def test_a_key_is_kept_in_its_tab_alone_unless_the_user_says_remember(
    key_site: KeySite, page: Page
) -> None:
    key = key_site.add("ida")
    enter(page, key)
    assert kept_in(page, key) == ["sessionStorage"]
    page.reload()
    answered(page)
    with another_tab(page) as tab:
        expect(tab.get_by_role("dialog")).to_contain_text("A key is needed")
        enter(tab, key, remember=True)
        assert kept_in(tab, key) == ["localStorage"]
    with another_tab(page) as tab:
        answered(tab)
        assert kept_in(tab, key) == ["localStorage"]
        tab.get_by_role("button", name="Key").click()
        tab.get_by_role("button", name="Forget the key").click()
        assert kept_in(tab, key) == []
        tab.reload()
        expect(tab.get_by_role("dialog")).to_contain_text("A key is needed")


@contextmanager
def another_tab(page: Page) -> Iterator[Page]:
    """Of the same browser, without what is the first one's alone."""
    tab = page.context.new_page()
    tab.goto(page.url)
    yield tab
    tab.close()


def answered(page: Page) -> Locator:
    """By vLLM, with the key that the tab has."""
    page.get_by_role("radio", name="Reasoning").check()
    choose(page, Most_tokens_of_an_answer="10", Most_tokens_of_reasoning="0")
    answer = ask(page, "Hello")
    expect(answer.locator(".markdown")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    return answer


def kept_in(page: Page, key: str) -> list[str]:
    """Where the browser keeps the key: it is in nothing else that a page can write."""
    expect(page.get_by_role("dialog")).to_have_count(0)
    found: list[str] = page.evaluate(KEPT_IN, key)
    assert key not in page.url
    assert not any(key in str(cookie) for cookie in page.context.cookies())
    return found


def enter(page: Page, key: str, *, remember: bool = False) -> None:
    """The dialog is open, or opens."""
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key", exact=True).fill(key)
    if remember:
        dialog.get_by_label("Remember").check()
    dialog.get_by_role("button", name="Use this key").click()


def asks_for_another(page: Page, key: str) -> None:
    """A question fails for want of a key, and is answered with this one."""
    send(page, "And now?")
    expect(page.get_by_role("dialog")).to_contain_text("does not take this key")
    enter(page, key)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("[data-state=failed]")).to_have_count(0)
    ended(page)
