"""One Chromium and one scripted service for each module; each test has a page of its own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, ViewportSize

from tests.api.loopback import served
from tests.page.browser import a_browser, missing
from tests.page.scripted_service import Script, ScriptedService

WIDE = ViewportSize(width=1200, height=800)


@dataclass(slots=True)
class Running:
    """The service at its address."""

    service: ScriptedService
    url: str


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    if reason := missing():
        pytest.skip(reason)
    async with a_browser() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running() -> AsyncIterator[Running]:
    service = ScriptedService()
    async with served(service.app()) as url:
        yield Running(service, url)


@pytest.fixture
def script(running: Running) -> Script:
    """What the service answers in this test."""
    running.service.script = Script()
    return running.service.script


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, running: Running, script: Script) -> AsyncIterator[Page]:
    """The page, opened for the first time. At its end nothing may have gone wrong in it, nor been
    blocked by its policy."""
    async with await browser.new_context(viewport=WIDE, locale="en-US") as context:
        opened = await context.new_page()
        wrong = watch(opened)
        await opened.goto(running.url)
        await opened.get_by_role("textbox", name="Message").wait_for()
        yield opened
        assert wrong == []


def watch(page: Page) -> list[str]:
    """What goes wrong in a page from here on. A refusal or a broken stream is what a test plays."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def hear(message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        if kind == "error" and not text.startswith("Failed to load resource"):
            wrong.append(text)

    page.on("console", hear)
    return wrong
