"""Answers and files that were written to do harm: none acts, hides, or stops the page."""

import json
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.page.chat_page import ask, send
from tests.page.scripted_service import Script

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

# A right-to-left override, and what ends one.
OVERRIDE, POP = "\u202e", "\u202c"
DEEP = 4000
TOO_DEEP = {
    "quotes": "> " * DEEP + "end",
    "lists": "- " * DEEP + "end",
    "fractions": "$" + "\\frac{" * DEEP + "1" + "}{2}" * DEEP + "$ end",
    "roots": "\\(" + "\\sqrt{" * 400 + "end" + "}" * 400 + "\\)",
}


@pytest.mark.parametrize("what", TOO_DEEP)
async def test_what_is_nested_too_deeply_is_shown_and_the_page_goes_on(
    page: Page, script: Script, what: str
) -> None:
    script.text = TOO_DEEP[what]
    answer = await ask(page, "Nest")
    await expect(answer.locator(".markdown")).to_contain_text("end")
    script.text = "It is 4."
    answer = await ask(page, "And now?")
    await expect(answer.locator(".markdown")).to_have_text("It is 4.")


async def test_a_line_of_a_megabyte_is_shown_whole(page: Page, script: Script) -> None:
    script.text = "word " * 200_000 + "end"
    # All at once: the service's pieces would be a quarter of a million events.
    script.piece_chars = 100_000
    answer = await ask(page, "Long")
    shown = await answer.locator(".markdown").evaluate("element => element.textContent.length")
    assert shown >= 1_000_000


async def test_mathematics_is_drawn_within_its_own_block(page: Page, script: Script) -> None:
    script.text = (
        "Before.\n\n$\\raisebox{90em}{over}\\rule{900em}{900em}\\kern-90em\\mathllap{left}$ x\n\n"
        "$$\\class{top}{a}\\htmlId{page}{b}\\href{javascript:alert(1)}{c}$$\n\nAfter."
    )
    answer = await ask(page, "Draw")
    block = answer.locator(".markdown > div").nth(1)
    box = await block.bounding_box()
    assert box is not None
    assert box["height"] < 1000
    assert await block.evaluate("element => getComputedStyle(element).overflow") == "clip"
    await expect(answer.locator("[id], [style], [class=top], a")).to_have_count(0)


async def test_letters_that_turn_a_text_around_hide_nothing(page: Page, script: Script) -> None:
    script.text = (
        f"[{OVERRIDE}moc.knab//:sptth{POP}](https://evil.example) and "
        "[this](https://\u0430pple.com) and "
        f"[https://bank.com](https://evil.example/x) &#8238;turned\n\n"
        f"```python\nif admin: # {OVERRIDE}}} check\n```\n"
    )
    answer = await ask(page, "Turn")
    text = answer.locator(".markdown")
    assert OVERRIDE not in await text.inner_text()
    await expect(text).to_contain_text("this (xn--pple-43d.com)")
    await expect(text).to_contain_text("https://bank.com (evil.example)")
    await expect(answer.locator("pre .hidden-char")).to_have_text("U+202E")


async def test_a_hostile_file_of_conversations_is_read_without_harm(
    page: Page, script: Script, tmp_path: Path
) -> None:
    attack = "<img src=x onerror=\"window.attacked='file'\">"
    turns = [
        {"role": "user", "id": "one", "text": attack},
        {"role": "assistant", "id": "one", "text": attack, "state": "done", "end": attack},
        {"role": attack, "text": {"deep": []}},
        {"role": "assistant", "text": TOO_DEEP["quotes"], "state": "done", "tier": attack},
    ]
    conversation = {"id": attack, "title": attack + "x" * 1_000_000, "tier": attack, "turns": turns}
    file = tmp_path / "hostile.json"
    conversations = [conversation, {"__proto__": {"polluted": True}, "turns": "none"}, None, 7]
    exported = {"format": "tierserve.conversations", "version": 1, "conversations": conversations}
    file.write_text(json.dumps(exported))
    chosen = page.locator("input[type=file]")
    await chosen.set_input_files(file)
    await expect(page.locator(".list li")).to_have_count(2)
    await page.locator(".list li .open").filter(has_text="onerror").click()
    await expect(page.locator("article")).to_have_count(4)
    assert await page.evaluate("[window.attacked, {}.polluted]") == [None, None]
    # Its tier is none of this service's: the first one answers.
    await ask(page, "And now?")
    assert script.asked[-1]["model"] == "chat"
    file.write_text("[" * 1_000_000)
    await chosen.set_input_files(file)
    await expect(page.locator(".list footer")).to_contain_text("not a file of conversations")


async def test_names_in_the_status_are_text(page: Page, script: Script) -> None:
    attack = "<img src=x onerror=\"window.attacked='name'\">"
    script.usage = [{"key": attack + "k" * 2000, "requests": 3}]
    script.model = attack + "m" * 2000
    await page.get_by_role("link", name="Status").click()
    usage = page.get_by_role("region", name="Usage by key")
    await expect(usage).to_contain_text("<img src=x")
    await expect(page.get_by_role("region", name="Chat")).to_contain_text("<img src=x")
    assert await page.evaluate("window.attacked") is None
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert await page.evaluate(wide) <= 0


async def test_an_error_of_the_service_is_text(page: Page, script: Script) -> None:
    script.refusals, script.retry_after_s, script.refusal_code = 1, 40_000, "insufficient_quota"
    script.refusal = "<img src=x onerror=\"window.attacked='error'\">"
    await send(page, "More?")
    await expect(page.locator(".ending")).to_contain_text("<img src=x")
    assert await page.evaluate("window.attacked") is None
