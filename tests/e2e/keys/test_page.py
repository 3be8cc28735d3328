"""The page in Chromium, in front of a service with keys: entered, refused, revoked and expired."""

import time
from dataclasses import replace

from playwright.sync_api import Page, expect

from tests.e2e.browser import a_browser, an_open_page, ask, choose, ended, send
from tests.e2e.keys.conftest import KeySite
from tests.e2e.site import wait_for

WRONG = f"ts-{'a' * 8}-{'b' * 43}"


def test_a_key_is_asked_for_once_it_is_no_longer_taken_while_the_page_is_open(
    key_site: KeySite,
) -> None:
    revoked, expiring = key_site.add("mia"), key_site.add("tom")
    with a_browser() as browser, an_open_page(browser, key_site.site.url) as page:
        expect(page.get_by_role("dialog")).to_contain_text("A key is needed")
        enter(page, WRONG)
        expect(page.get_by_role("dialog")).to_contain_text("does not take this key")
        enter(page, revoked)
        choose(page, Most_tokens_of_an_answer="10")
        ask(page, "Hello")
        key_site.store.revoke("mia")
        wait_for(lambda: key_site.statuses_everywhere(revoked) == {401}, "revoked everywhere", 10)
        asks_for_another(page, expiring)
        past_s = time.time() - 1
        key_site.store.change(replace(key_site.store.get("tom"), expires_at_s=past_s))
        wait_for(lambda: key_site.statuses_everywhere(expiring) == {401}, "expired everywhere", 10)
        asks_for_another(page, key_site.add("zoe"))
        # What was answered before is still there.
        expect(page.locator("article.answer .markdown")).to_have_count(3)


def test_a_user_sees_what_he_has_used_and_an_admin_sees_the_tiers(key_site: KeySite) -> None:
    user, admin = key_site.add("bob"), key_site.add("head", admin=True)
    with a_browser() as browser, an_open_page(browser, key_site.site.url) as page:
        enter(page, user)
        choose(page, Most_tokens_of_an_answer="10")
        answer = ask(page, "Hello")
        answer.get_by_role("button", name="Show as code").click()
        expect(page.get_by_role("dialog").locator("code")).to_contain_text("$TIERSERVE_KEY")
        assert user not in page.content()
        page.keyboard.press("Escape")
        page.get_by_role("link", name="Status").click()
        expect(page.get_by_role("alert")).to_contain_text("for administrators")
        expect(page.get_by_role("region", name="Usage by key")).to_contain_text("bob")
        expect(page.get_by_role("region", name="Chat")).to_have_count(0)
        page.get_by_role("alert").get_by_role("button", name="Key").click()
        enter(page, admin)
        expect(page.get_by_role("region", name="Chat").get_by_role("table")).to_contain_text(
            "ready"
        )
        expect(page.get_by_role("region", name="Usage by key")).to_contain_text("bob")


def enter(page: Page, key: str) -> None:
    """The dialog is open, or opens."""
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key", exact=True).fill(key)
    dialog.get_by_role("button", name="Use this key").click()


def asks_for_another(page: Page, key: str) -> None:
    """A question fails for want of a key, and is answered with this one."""
    send(page, "And now?")
    expect(page.get_by_role("dialog")).to_contain_text("does not take this key")
    enter(page, key)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("[data-state=failed]")).to_have_count(0)
    ended(page)
