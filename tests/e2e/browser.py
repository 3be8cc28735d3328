"""A look at a service's page in Chromium."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from tests.page.browser import CHROMIUM, KEPT_TEXTS, LAUNCH_ARGUMENTS, missing

TIMEOUT_MS = 60_000
COMPLETIONS = "**/v1/chat/completions"


@contextmanager
def a_browser() -> Iterator[Browser]:
    """Skips where there is none, or no page."""
    if reason := missing():
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=LAUNCH_ARGUMENTS)
        yield started
        started.close()


@contextmanager
def an_open_page(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Of somebody who was never there; `options`: of Playwright's context. Nothing may go wrong in
    the page, nor be blocked; that a resource is not there, as usage without keys, is none of its
    errors."""
    expect.set_options(timeout=TIMEOUT_MS)
    chosen: dict[str, Any] = {"locale": "en-US", **options}
    with browser.new_context(**chosen) as context:
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda each: wrong.append(each.text) if each.type == "error" else None)
        page.goto(url)
        yield page
        assert [text for text in wrong if not text.startswith("Failed to load resource")] == []


def choose(page: Page, **fields: str) -> None:
    """Settings by their labels."""
    page.get_by_role("button", name="Settings").click()
    for label, value in fields.items():
        page.get_by_role("dialog").get_by_label(label.replace("_", " ")).fill(value)
    page.keyboard.press("Escape")


def send(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")


def ask(page: Page, text: str) -> Locator:
    """The answer, once it has ended."""
    answer = page.locator("article.answer").nth(page.locator("article.answer").count())
    send(page, text)
    expect(answer.get_by_role("button", name="Delete")).to_be_visible()
    return answer


@contextmanager
def answering(page: Page, text: str) -> Iterator[None]:
    """The model can write this text alone, behind its reasoning: what the page asks for is bound to
    it on its way to the service. It comes token by token, as any other."""

    def bind(route: Route) -> None:
        asked = json.loads(route.request.post_data or "{}")
        bound = {**asked, "structured_outputs": {"choice": [text]}}
        route.continue_(post_data=json.dumps(bound))

    page.route(COMPLETIONS, bind)
    yield
    page.unroute(COMPLETIONS)


def ended(page: Page, timeout_ms: float = TIMEOUT_MS) -> None:
    """Waits until the last answer has."""
    actions = page.locator("article.answer").last.get_by_role("button", name="Delete")
    expect(actions).to_be_visible(timeout=timeout_ms)


def kept_texts(page: Page) -> list[list[str]]:
    """Of each turn of each conversation, as the browser keeps them."""
    return page.evaluate(KEPT_TEXTS)
