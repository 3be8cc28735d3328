"""Conversations are kept: with two windows open, a full disk, and a page that was closed."""

import json
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.page.browser import KEPT_TEXTS
from tests.page.chat_page import ask, ended, send
from tests.page.conftest import WIDE, Running, watch
from tests.page.scripted_service import Script

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


# A transaction is refused as a whole, after each of its requests has been taken.
FULL_DISK = """() => {
    window.full = true;
    const put = IDBObjectStore.prototype.put;
    IDBObjectStore.prototype.put = function (...given) {
        const request = put.apply(this, given);
        if (window.full) this.transaction.abort();
        return request;
    };
}"""


async def another(page: Page, url: str) -> Page:
    """A second window of the same browser."""
    opened = await page.context.new_page()
    await opened.goto(url)
    await opened.get_by_role("textbox", name="Message").wait_for()
    return opened


async def test_two_windows_see_each_others_turns_and_lose_none(
    page: Page, script: Script, running: Running
) -> None:
    await ask(page, "First")
    second = await another(page, running.url)
    wrong = watch(second)
    await second.locator(".list li .open").click()
    # Both answer in one conversation at the same time.
    script.text, script.events_per_s = "One. " * 100, 50
    await send(page, "Of the first window")
    await expect(page.locator(".markdown").nth(1)).to_contain_text("One.")
    await expect(second.locator("article.question")).to_have_count(2)
    script.text, script.events_per_s = "It is 5.", 0
    await ask(second, "Of the second window")
    await expect(page.locator("article.question")).to_have_count(3)
    await ended(page.locator("article.answer").nth(1))
    for window in (page, second):
        await expect(window.locator("article.answer .actions")).to_have_count(3)
        await expect(window.locator(".markdown").nth(1)).to_contain_text("One. " * 99)
    (texts,) = await page.evaluate(KEPT_TEXTS)
    assert [text[:8] for text in texts] == [
        *("First", "It is 4."),
        *("Of the f", "One. One"),
        *("Of the s", "It is 5."),
    ]
    assert len(texts[3]) == 500
    # What one deletes is deleted for the other too.
    await second.get_by_role("button", name="Delete all").click()
    await second.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    await expect(page.locator(".list li")).to_have_count(0)
    assert await page.evaluate(KEPT_TEXTS) == []
    assert wrong == []


async def test_a_full_disk_is_said_and_what_is_there_can_still_be_taken_away(
    page: Page, script: Script, tmp_path: Path
) -> None:
    # As Chromium does with QuotaExceededError, at some time after its quota has been used up.
    await page.evaluate(FULL_DISK)
    notice = page.get_by_text("This browser keeps no more")
    await expect(notice).to_have_count(0)
    await ask(page, "First")
    await expect(notice).to_be_visible()
    assert await page.evaluate(KEPT_TEXTS) == []
    async with page.expect_download() as downloading:
        await page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    await (await downloading.value).save_as(file)
    assert len(json.loads(file.read_text())["conversations"]) == 1
    # With room again the next change is kept, and with it all that was not.
    await page.evaluate("window.full = false")
    await ask(page, "Second")
    await expect(notice).to_have_count(0)
    assert await page.evaluate(KEPT_TEXTS) == [["First", "It is 4.", "Second", "It is 4."]]


async def test_a_page_that_was_closed_says_of_an_answer_only_what_it_knows(
    page: Page, script: Script
) -> None:
    script.ahead, script.ahead_s = (3,) * 60, 1.0
    await send(page, "Wait")
    await expect(page.locator(".waiting")).to_contain_text("3 ahead")
    await page.reload()
    await page.locator(".list li .open").click()
    await expect(page.locator(".ending")).to_contain_text("Stopped.")
    script.ahead = ()
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator(".markdown")).to_have_text("It is 4.")


async def test_a_key_that_may_use_one_tier_only_asks_that_one(page: Page, script: Script) -> None:
    script.offered = ("reasoning",)
    await page.reload()
    await expect(page.get_by_role("radio", name="Reasoning")).to_be_checked()
    await expect(page.get_by_role("radio", name="Chat")).to_have_count(0)
    await ask(page, "Hello")
    assert script.asked[-1]["model"] == "reasoning"


async def test_a_key_that_is_revoked_while_the_page_is_open_is_asked_for_anew(
    browser: Browser, running: Running, script: Script
) -> None:
    script.key = "ts-first"
    async with await browser.new_context(viewport=WIDE, locale="en-US") as context:
        page = await context.new_page()
        wrong = watch(page)
        await page.goto(running.url)
        dialog = page.get_by_role("dialog")
        # Whoever closes the dialog can open it again.
        await dialog.wait_for()
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Key").click()
        await dialog.get_by_label("Key", exact=True).fill("ts-first")
        await dialog.get_by_role("button", name="Use this key").click()
        await ask(page, "First")
        script.key = "ts-second"
        await send(page, "Second")
        await expect(dialog).to_contain_text("does not take this key")
        await dialog.get_by_label("Key", exact=True).fill("ts-second")
        await dialog.get_by_role("button", name="Use this key").click()
        await expect(page.locator(".ending")).to_contain_text("A key is needed.")
        await page.get_by_role("button", name="Try again").click()
        await ended(page.locator("article.answer").nth(1))
        await expect(page.locator(".markdown")).to_have_count(2)
        assert wrong == []


async def test_an_answer_as_json_is_shown_as_code(page: Page, script: Script) -> None:
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("JSON schema").fill('{"type": "object"}')
    await page.keyboard.press("Escape")
    script.text = '{"a_b": "*x*", "c_d": 1}'
    answer = await ask(page, "As JSON")
    await expect(answer.locator("pre code")).to_have_text(script.text)
    await expect(answer.locator("em")).to_have_count(0)


async def test_a_clock_that_is_set_while_an_answer_streams_changes_none_of_its_times(
    page: Page, script: Script
) -> None:
    script.text, script.events_per_s = "One. " * 40, 50
    await send(page, "Count")
    await expect(page.locator(".markdown")).to_contain_text("One.")
    await page.evaluate("() => { const now = Date.now; Date.now = () => now() - 3_600_000; }")
    await ended(page.locator("article.answer"))
    total = await page.locator("[data-figure=total]").inner_text()
    assert total.endswith(" s")
    assert "min" not in total
    assert float(total.split()[1]) >= 0.5


async def test_a_service_with_a_newer_page_is_said_where_parts_of_this_one_are_gone(
    page: Page, script: Script
) -> None:
    await page.route("**/assets/uPlot*", lambda route: route.fulfill(status=404))
    await page.get_by_role("link", name="Status").click()
    await expect(page.get_by_role("alert")).to_contain_text("newer page")
    await expect(page.get_by_role("button", name="Reload")).to_be_visible()


@pytest.mark.parametrize("colours", ["light", "dark"])
async def test_a_button_under_the_pointer_can_still_be_read(
    browser: Browser, running: Running, script: Script, colours: str
) -> None:
    """The ground of a primary button is dark, and its text white."""
    async with await browser.new_context(viewport=WIDE, locale="en-US") as context:
        page = await context.new_page()
        await page.goto(running.url)
        await page.get_by_label("Theme").select_option(colours)
        await page.get_by_role("textbox", name="Message").fill("x")
        ground = "element => getComputedStyle(element).backgroundColor"
        for name in ("New conversation", "Send"):
            button = page.get_by_role("button", name=name).first
            before = await button.evaluate(ground)
            await button.hover()
            assert await button.evaluate(ground) == before
