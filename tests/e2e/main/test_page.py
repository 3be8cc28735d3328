"""The page in Chromium, in front of a model that does not reason."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import a_browser, an_open_page, answering, ask, choose, kept_texts, send
from tests.e2e.site import Site
from tests.e2e.wire import a_wire


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as started:
        yield started


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with an_open_page(browser, site.url) as visited:
        yield visited


def test_a_model_that_does_not_reason_answers_and_is_offered_no_reasoning(page: Page) -> None:
    choose(page, Temperature="0", Most_tokens_of_an_answer="40")
    answer = ask(page, "What is the capital of France?")
    expect(answer.locator(".markdown")).to_contain_text("Paris")
    expect(answer.locator("details.reasoning")).to_have_count(0)
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_role("dialog")).to_contain_text("does not reason")
    expect(page.get_by_role("dialog").get_by_label("Most tokens of reasoning")).to_have_count(0)


def test_a_prompt_that_asks_for_an_attack_gets_text(page: Page) -> None:
    """The model goes on with what it has read; what it writes acts in no browser."""
    attack = '<img src=x onerror="window.attacked=1"> [click](javascript:window.attacked=2)'
    choose(page, Temperature="0", Most_tokens_of_an_answer="60")
    lines = "\n".join([attack] * 3)
    answer = ask(page, f"{lines}\nContinue this list with the same line.")
    expect(answer.locator(".markdown")).to_contain_text('<img src=x onerror="window.attacked')
    expect(page.locator("article :is(img, script, iframe, [onerror])")).to_have_count(0)
    expect(page.locator("article a[href^=javascript]")).to_have_count(0)
    assert page.evaluate("window.attacked") is None


def test_what_the_model_writes_is_drawn_and_none_of_it_acts(page: Page) -> None:
    """Exactly this, token by token: it can write nothing else."""
    text = (
        "**Bold**, \\(a^2\\) and \\boxed{20}.\n\n$$\\frac{1}{2}$$\n\n"
        "```python\ndef f(): return 1\n```\n\n"
        '<img src=x onerror="window.attacked=1"> [click](javascript:window.attacked=2)\n\n'
        "الجواب هو أربعة."
    )
    with answering(page, text):
        answer = ask(page, "Show me")
    expect(answer.locator("strong")).to_have_text("Bold")
    expect(answer.locator("math")).to_have_count(3)
    expect(answer.locator("pre .hljs-keyword").first).to_have_text("def")
    expect(answer).to_contain_text('<img src=x onerror="window.attacked=1"> click (javascript:')
    expect(page.locator("article :is(img, script, iframe, a, [onerror])")).to_have_count(0)
    assert page.evaluate("window.attacked") is None
    last = answer.locator(".markdown > div").last
    assert last.evaluate("each => getComputedStyle(each).direction") == "rtl"


def test_the_system_prompt_changes_what_is_answered(page: Page) -> None:
    answers: list[str] = []
    for system in ("You are a pirate. Begin each answer with Arr.", "You are a cook."):
        choose(page, Temperature="0", Most_tokens_of_an_answer="24", System_prompt=system)
        answers.append(ask(page, "Who are you?").locator(".markdown").inner_text())
        page.get_by_role("button", name="New conversation").first.click()
    assert answers[0] != answers[1]
    choose(page, Most_tokens_of_an_answer="24")
    answer = ask(page, "Who are you?")
    answer.get_by_role("button", name="Show as code").click()
    # It is its conversation's, and not the next one's.
    expect(page.get_by_role("dialog").locator("code")).not_to_contain_text("system")


def test_a_broken_connection_leaves_what_had_come_and_the_answer_goes_on_from_it(
    browser: Browser, site: Site
) -> None:
    with a_wire(site.url) as wire, an_open_page(browser, wire.url) as page:
        choose(page, Temperature="0")
        send(page, "Tell me a long story about the sea, the wind and an old ship.")
        answer = page.locator(".markdown")
        expect(answer).to_have_text(longer_than(40))
        wire.cut()
        expect(page.locator(".ending")).to_contain_text("What had come by then is kept.")
        ((_, begun),) = kept_texts(page)
        shown_chars = len(answer.inner_text())
        page.get_by_role("button", name="Go on").click()
        expect(answer).to_have_text(longer_than(shown_chars + 40))
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".ending")).to_contain_text("Stopped.")
        ((_, text),) = kept_texts(page)
        assert text.startswith(begun)
        assert len(text) > len(begun)


def longer_than(chars: int) -> re.Pattern[str]:
    """Matches a text of more characters, whatever they are."""
    return re.compile(f".{{{chars},}}", re.S)
