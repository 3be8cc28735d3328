"""The page for everyone, in Chromium in front of real vLLM: by the keyboard alone, on a phone, in
Chinese, in the dark, and as axe-core sees it."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, Response, ViewportSize, expect

from tests.e2e.browser import a_browser, an_open_page, answering, ask, choose, ended
from tests.e2e.site import Site
from tests.page.axe import AXE, RUN, missing, said
from tests.page.test_sources import MOST_BYTES

QUESTION = "Tom has 12 apples. Mia gives Tom 15 more. How many apples does Tom have now?"
EVERYTHING = """\
A [link](https://a.b), `code`, \\(x\\)

```python
def f(): return 'a' # b
```

| a |
|---|
| 1 |
"""
PHONE: dict[str, Any] = {
    "viewport": ViewportSize(width=360, height=740),
    "is_mobile": True,
    "has_touch": True,
}
WIDER_THAN_ITS_SCREEN = "document.documentElement.scrollWidth > innerWidth"
GROUND = "getComputedStyle(document.body).backgroundColor"
# What somebody can use, but the keyboard does not reach, or reaches without that one sees it.
REACHED = """() => {
    window.reached = new Set();
    window.unseen = [];
    addEventListener('focusin', ({target}) => {
        reached.add(target);
        // A hidden radio marks what stands beside it, what is written in its whole form.
        const marked = [target, target.nextElementSibling, target.closest('form')]
            .filter(each => each !== null)
            .map(each => getComputedStyle(each))
            .some(each => each.outlineStyle !== 'none' || /0px 0px 0px [1-9]/.test(each.boxShadow));
        if (!marked)
            unseen.push(target.outerHTML.slice(0, 120));
    });
}"""
NOT_REACHED = """() => {
    const within = document.querySelector('dialog[open]') ?? document;
    const all = within.querySelectorAll(
        'a[href], button, input, select, textarea, summary, [tabindex="0"]');
    return [...all]
        .filter(each => each.tabIndex >= 0 && !each.disabled)
        .filter(each => each.checkVisibility({visibilityProperty: true}))
        .filter(each => each.type !== 'radio' || each.checked)
        .filter(each => !reached.has(each))
        .map(each => each.outerHTML.slice(0, 120));
}"""
# When the page can be written in, from the moment that it was asked for.
USABLE = """new MutationObserver((records, watching) => {
    if (document.querySelector('main textarea') === null) return;
    window.usable_ms = performance.now();
    watching.disconnect();
}).observe(document, {subtree: true, childList: true});"""
USABLE_WITHIN_S = 1.0
# How often it is opened: what a busy machine takes once is none of the page's.
OPENED = 5


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as started:
        yield started


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with an_open_page(browser, site.url) as visited:
        yield visited


def test_nothing_is_needed_but_the_keyboard(page: Page) -> None:
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    page.keyboard.type(QUESTION)
    tab_to(page, page.get_by_role("radio", name="Chat"))
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Reasoning")).to_be_checked()
    press(page, page.get_by_role("button", name="Settings"))
    tab_to(page, page.get_by_label("Temperature"))
    page.keyboard.type("0")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Settings")).to_be_focused()
    press(page, page.get_by_role("button", name="Send"))
    ended(page)
    answer = page.locator("article.answer")
    press(page, answer.locator("summary"))
    expect(answer.locator(".reasoning-text")).to_be_visible()
    press(page, page.locator("article.question").get_by_role("button", name="Edit and send again"))
    page.keyboard.press("End")
    page.keyboard.type(" Really?")
    press(page, page.get_by_role("button", name="Send again"))
    expect(page.locator(".question-text")).to_contain_text("Really?")
    ended(page)
    press(page, page.get_by_role("button", name="Rename"))
    expect(page.get_by_label("Name of the conversation")).to_be_focused()
    page.keyboard.type("Apples")
    page.keyboard.press("Enter")
    expect(page.locator(".list li")).to_have_text("Apples")
    press(page, page.get_by_role("link", name="Status"))
    expect(page.get_by_role("region", name="Reasoning")).to_be_visible()
    press(page, page.get_by_role("link", name="Chat", exact=True))
    press(page, answer.get_by_role("button", name="Delete"))
    expect(answer).to_have_count(0)


def test_the_keyboard_reaches_all_that_can_be_used_and_one_sees_where_it_is(page: Page) -> None:
    with answering(page, EVERYTHING):
        ask(page, QUESTION)
    page.evaluate(REACHED)
    tab_around(page)
    for name in ("Settings", "Show as code"):
        page.get_by_role("button", name=name).press("Enter")
        page.get_by_role("dialog").wait_for()
        tab_around(page)
        page.keyboard.press("Escape")
    page.get_by_role("link", name="Status").press("Enter")
    page.locator("canvas").first.wait_for()
    tab_around(page)
    assert page.evaluate("unseen") == []


def test_axe_finds_nothing(browser: Browser, site: Site) -> None:
    if reason := missing():
        pytest.skip(reason)
    with an_open_page(browser, site.url, bypass_csp=True) as page:
        page.add_script_tag(path=AXE)
        choose(page, Most_tokens_of_reasoning="10")
        with answering(page, EVERYTHING):
            ask(page, QUESTION).locator("summary").click()
        expect(page.locator(".cut")).to_be_visible()
        look(page, "light", "dark")
        for name in ("Settings", "Show as code", "Rename"):
            page.get_by_role("button", name=name).first.click()
            page.get_by_role("dialog").wait_for()
            look(page, "light")
            page.keyboard.press("Escape")
            expect(page.get_by_role("dialog")).to_have_count(0)
        page.get_by_role("link", name="Status").click()
        page.locator("canvas").first.wait_for()
        look(page, "light", "dark")


def test_a_phone_shows_all_of_it_in_chinese_without_scrolling_sideways(
    browser: Browser, site: Site
) -> None:
    wide = "```\n" + "wide " * 20 + "\n```\n\n" + "verylongword" * 8
    with an_open_page(browser, site.url, **PHONE, locale="zh-CN", bypass_csp=True) as page:
        assert page.get_attribute("html", "lang") == "zh-CN"
        page.get_by_role("radio", name="推理").check()
        page.get_by_role("textbox", name="消息").fill("汤姆有十二个苹果。")
        with answering(page, wide):
            page.get_by_role("button", name="发送").tap()
            answer = page.locator("article.answer")
            expect(answer.get_by_role("button", name="删除")).to_be_visible()
        expect(answer.locator("[data-figure=speed]")).to_contain_text("token/秒")
        assert not page.evaluate(WIDER_THAN_ITS_SCREEN)
        expect(page.get_by_role("searchbox")).to_be_hidden()
        page.get_by_role("button", name="显示对话列表").tap()
        expect(page.get_by_role("searchbox")).to_be_visible()
        page.locator(".list li .open").tap()
        expect(page.get_by_role("searchbox")).to_be_hidden()
        page.get_by_role("button", name="设置").tap()
        expect(page.get_by_role("dialog")).to_contain_text("1 到 2,048")
        assert not page.evaluate(WIDER_THAN_ITS_SCREEN)
        page.keyboard.press("Escape")
        page.get_by_role("link", name="状态").tap()
        expect(page.get_by_role("region", name="推理").get_by_role("table")).to_contain_text("就绪")
        assert not page.evaluate(WIDER_THAN_ITS_SCREEN)
        if missing() is None:
            page.add_script_tag(path=AXE)
            look(page, "light")
        page.get_by_label("语言").select_option("en")
        expect(page.get_by_role("link", name="Status")).to_be_visible()
        page.reload()
        expect(page.get_by_role("link", name="Status")).to_be_visible()


def test_it_is_dark_where_the_system_is_until_another_theme_is_chosen(
    browser: Browser, site: Site
) -> None:
    with an_open_page(browser, site.url, color_scheme="dark") as page:
        page.get_by_role("textbox", name="Message").wait_for()
        dark = page.evaluate(GROUND)
        page.emulate_media(color_scheme="light")
        light = page.evaluate(GROUND)
        assert lightness(dark) < 60 < 200 < lightness(light)
        page.get_by_label("Theme").select_option("dark")
        assert page.evaluate(GROUND) == dark
        page.reload()
        page.get_by_role("textbox", name="Message").wait_for()
        assert page.evaluate(GROUND) == dark


def test_it_can_be_used_within_a_second_on_a_cold_cache_and_is_small(
    browser: Browser, site: Site
) -> None:
    usable_s: list[float] = []
    while len(usable_s) < OPENED and not (usable_s and min(usable_s) < USABLE_WITHIN_S):
        with browser.new_context(locale="en-US") as context:
            page = context.new_page()
            page.add_init_script(USABLE)
            page.goto(site.url, wait_until="commit")
            page.locator("main textarea").fill("Hello")
            usable_s.append(page.evaluate("usable_ms") / 1000)
    assert min(usable_s) < USABLE_WITHIN_S, usable_s
    files: list[Response] = []
    with browser.new_context(locale="en-US") as context:
        page = context.new_page()
        page.on("response", lambda each: files.append(each) if "/assets/" in each.url else None)
        document = page.goto(f"{site.url}/#status")
        assert document is not None
        page.locator("canvas").first.wait_for()
        sizes = {each.url: each.request.sizes() for each in (document, *files)}
    assert len(sizes) >= 4
    assert sum(size["responseBodySize"] for size in sizes.values()) <= MOST_BYTES, sizes
    policy = document.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def tab_to(page: Page, wanted: Locator) -> None:
    """By the keyboard, as far as it takes."""
    for _ in range(80):
        if wanted.evaluate("each => each === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not reach {wanted}")


def press(page: Page, wanted: Locator) -> None:
    tab_to(page, wanted)
    page.keyboard.press("Enter")


def tab_around(page: Page) -> None:
    """Through all that there is; the keyboard must have been at each."""
    for _ in range(120):
        if not page.evaluate(NOT_REACHED):
            return
        page.keyboard.press("Tab")
    assert page.evaluate(NOT_REACHED) == []


def look(page: Page, *colours: Literal["light", "dark"]) -> None:
    """axe-core has nothing to say."""
    for each in colours:
        page.emulate_media(color_scheme=each)
        assert said(page.evaluate(RUN)) == [], each


def lightness(colour: str) -> int:
    """Of `rgb(…)`: the mean of its three parts."""
    red, green, blue = (int(part) for part in colour.strip("rgb()").split(","))
    return (red + green + blue) // 3
