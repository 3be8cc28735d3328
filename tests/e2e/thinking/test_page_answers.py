"""What real vLLM writes, as the page draws it in Chromium: Markdown, mathematics, attacks, and the
scripts of other languages, each token by token."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import a_browser, an_open_page, answering, ask
from tests.e2e.site import Site
from tests.page.browser import KEPT_TEXTS
from tests.page.drawing import ATTACKS, STEADY

MARKDOWN = r"""**Bold**, \(a^2\), $b_1$ and \boxed{20}.

$$\frac{1}{2}$$

```python
def twice(number: int) -> int:
    return 2 * number
```

| a | b |
|---|---|
| 1 | 2 |
"""
CODE = "def twice(number: int) -> int:\n    return 2 * number"
PARAGRAPHS = 40
# A second or more, of what is never the same.
LONG = " ".join(f"word{number}" for number in range(150))
TOKENS_PER_S = 300
# What the service streams, handed over to the page at a speed of its own.
PACED = """perSecond => {
    const real = window.fetch;
    window.fetch = async (...asked) => {
        const response = await real(...asked);
        if (!response.headers.get('content-type')?.startsWith('text/event-stream')) return response;
        const events = (await response.text()).split(/(?<=\\n\\n)/);
        const began_ms = performance.now();
        const body = new ReadableStream({
            async pull(controller) {
                const due = Math.ceil((performance.now() - began_ms) * perSecond / 1000);
                const given = window.given ?? 0;
                const now = events.slice(given, Math.max(given + 1, due));
                window.given = given + now.length;
                controller.enqueue(new TextEncoder().encode(now.join('')));
                if (window.given >= events.length) controller.close();
                else await new Promise(resolve => setTimeout(resolve, 1000 / perSecond));
            },
        });
        return new Response(body, {headers: response.headers});
    };
}"""
# Every text that a figure of an answer has had.
FIGURES = """() => {
    window.figures = {};
    new MutationObserver(() => {
        for (const element of document.querySelectorAll('[data-figure]')) {
            const texts = (figures[element.dataset.figure] ??= []);
            if (texts.at(-1) !== element.textContent) texts.push(element.textContent);
        }
    }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as started:
        yield started


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """The reasoning tier is chosen, whose answers may be longer."""
    with an_open_page(browser, site.url) as visited:
        visited.get_by_role("radio", name="Reasoning").check()
        yield visited


def test_an_answer_is_markdown_with_code_to_copy_and_mathematics(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with answering(page, MARKDOWN):
        answer = ask(page, "Show me")
    expect(answer.locator("strong")).to_have_text("Bold")
    expect(answer.locator("math")).to_have_count(4)
    expect(answer.locator("math[display=block] mfrac")).to_have_count(1)
    expect(answer.locator(".maths-boxed")).to_have_text("20")
    expect(answer.locator("pre .hljs-keyword").first).to_have_text("def")
    expect(answer.locator("td")).to_have_text(["1", "2"])
    for name, copied in (("Copy code", CODE), ("Copy", MARKDOWN)):
        answer.get_by_role("button", name=name, exact=True).click()
        expect(answer.get_by_role("button", name="Copied").last).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == copied


def test_nothing_that_the_model_writes_acts_or_loads(page: Page, site: Site) -> None:
    foreign: list[str] = []
    page.on(
        "request",
        lambda each: None if each.url.startswith((site.url, "blob:")) else foreign.append(each.url),
    )
    with answering(page, "\n\n".join(ATTACKS)):
        answer = ask(page, ATTACKS[0])
    acting = "article :is(img, iframe, script, style, form, object, [onerror], [onload])"
    expect(page.locator(acting)).to_have_count(0)
    expect(page.locator("article .markdown [style]")).to_have_count(0)
    for link in answer.locator("a").all():
        assert (link.get_attribute("href") or "").startswith(("http", "mailto:"))
    expect(answer).to_contain_text("<script>window.attacked='script'</script>")
    # Whoever clicks on all of it does not start it either.
    for text in answer.get_by_text("click").all():
        text.click()
    assert page.evaluate("window.attacked") is None
    assert foreign == []


@pytest.mark.parametrize("paced", [False, True], ids=["as_it_is_written", "300_tokens_a_second"])
def test_what_stands_is_not_drawn_again(page: Page, paced: bool) -> None:
    """No flicker: a block that is complete stays the same node, and none is ever taken away."""
    if paced:
        page.evaluate(PACED, TOKENS_PER_S)
    page.evaluate(STEADY)
    text = "\n\n".join(f"In {n} are **two** words." for n in range(PARAGRAPHS))
    with answering(page, text):
        answer = ask(page, "Fast")
    expect(answer.locator(".markdown > div")).to_have_count(PARAGRAPHS)
    assert page.evaluate("steady") == {"removed": 0, "changed": 0}
    if paced:
        speed = answer.locator("[data-figure=speed]").inner_text()
        assert float(speed.split()[0]) > TOKENS_PER_S * 2 / 3


def test_the_figures_are_live_and_exact_at_the_end(page: Page) -> None:
    page.evaluate(FIGURES)
    with answering(page, LONG):
        ask(page, "Tom has 12 apples. Mia gives Tom 15 more. How many apples does Tom have now?")
    seen: dict[str, list[str]] = page.evaluate("figures")
    for name in ("tokens", "reasoning-tokens"):
        *live, last = (int(re.sub(r"\D", "", text)) for text in seen[name])
        assert [*live, last] == sorted([*live, last])
        # One for each event, until the service has said how many there were.
        assert [text.startswith("≈") for text in seen[name]] == [True] * len(live) + [False]
        assert live
    # Its clock goes on between events.
    assert len(seen["total"]) > 2
    assert len(seen["ttft"]) == 1


def test_text_from_right_to_left_and_chinese_keep_their_direction(page: Page) -> None:
    text = "الجواب هو أربعة، والسؤال `2+2` سهل.\n\n答案是四。\n\n- نعم\n- لا\n"
    with answering(page, text):
        answer = ask(page, "كم يساوي اثنان زائد اثنان؟")
    direction = "element => getComputedStyle(element).direction"
    assert page.locator(".question-text").evaluate(direction) == "rtl"
    blocks = answer.locator(".markdown > div")
    assert [each.evaluate(direction) for each in blocks.all()] == ["rtl", "ltr", "rtl"]
    expect(blocks.nth(1)).to_have_text("答案是四。")
    expect(blocks.nth(0).locator("code")).to_have_text("2+2")


def test_a_turn_is_copied_and_deleted(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with answering(page, "First."):
        ask(page, "One?")
    with answering(page, "Second."):
        answer = ask(page, "Two?")
    question = page.locator("article.question").last
    question.hover()
    question.get_by_role("button", name="Copy").click()
    expect(question.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "Two?"
    answer.get_by_role("button", name="Delete").click()
    expect(page.locator("article.answer .markdown")).to_have_text(["First."])
    question.hover()
    question.get_by_role("button", name="Delete").click()
    expect(page.locator("article")).to_have_count(2)
    # A page that is left at once may be gone before its browser keeps what it wrote.
    page.wait_for_function(
        f"({KEPT_TEXTS})().then(kept => kept.length == 1 && kept[0].length == 2)"
    )
    page.reload()
    page.locator(".list li .open").click()
    expect(page.locator("article .markdown, article .question-text")).to_have_text(
        ["One?", "First."]
    )
