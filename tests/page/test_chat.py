"""The chat in Chromium, in front of a service that answers as it is scripted."""

import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.page.chat_page import ask, ended, send
from tests.page.scripted_service import Script

# Two digits or more: what a page that closes keeps is saved once a second.
LIVE = re.compile(r"^≈ \d{2,} tokens$")

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


async def test_an_answer_is_markdown_with_code_to_copy_and_mathematics(
    page: Page, script: Script
) -> None:
    script.text = (
        "**Bold**, \\(a^2\\), $$\\frac{1}{2}$$ and \\boxed{20}.\n\n"
        "```python\ndef f():\n    return 1\n```\n"
    )
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer = await ask(page, "Show me")
    await expect(answer.locator("strong")).to_have_text("Bold")
    await expect(answer.locator("math")).to_have_count(3)
    await expect(answer.locator(".maths-boxed")).to_have_text("20")
    await expect(answer.locator("pre .hljs-keyword").first).to_have_text("def")
    await answer.get_by_role("button", name="Copy code").click()
    await expect(answer.get_by_role("button", name="Copied")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == "def f():\n    return 1"
    await answer.get_by_role("button", name="Copy", exact=True).click()
    await expect(answer.get_by_role("button", name="Copied").last).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == script.text


async def test_reasoning_is_folded_with_its_own_clock_and_count_and_says_that_it_was_cut(
    page: Page, script: Script
) -> None:
    script.reasoning, script.end, script.events_per_s = "Let me think about it. ", "cut", 20
    answer = await ask(page, "2+2?")
    folded = answer.locator("details.reasoning")
    await expect(folded.locator(".reasoning-text")).to_be_hidden()
    await expect(folded.locator("[data-figure=reasoning-tokens]")).to_have_text("6 tokens")
    await expect(folded.locator("[data-figure=reasoning-time]")).to_contain_text("s")
    await expect(folded).to_contain_text("cut at its budget")
    await folded.locator("summary").click()
    await expect(folded.locator(".reasoning-text")).to_have_text("Let me think about it. ")


async def test_the_figures_of_an_answer_are_live_and_exact_at_its_end(
    page: Page, script: Script
) -> None:
    script.text, script.events_per_s = "word" * 60, 40
    await send(page, "Talk")
    figures = page.locator(".figures")
    await expect(figures.locator("[data-figure=tokens]")).to_have_text(LIVE)
    await expect(figures.locator("[data-figure=speed]")).to_contain_text("tokens/s")
    await expect(figures.locator("[data-figure=ttft]")).to_contain_text("first token")
    await ended(page.locator("article.answer"))
    await expect(figures.locator("[data-figure=tokens]")).to_have_text("61 tokens")
    speed = await figures.locator("[data-figure=speed]").inner_text()
    assert 5 < float(speed.split()[0]) < 60
    await expect(figures.locator("[data-figure=total]")).to_contain_text("total ")


async def test_the_tier_changes_in_mid_conversation_and_earlier_turns_go_along(
    page: Page, script: Script
) -> None:
    await ask(page, "First")
    await page.get_by_role("radio", name="Reasoning").check()
    await ask(page, "Second")
    first, second = script.asked
    assert (first["model"], second["model"]) == ("chat", "reasoning")
    assert [each["content"] for each in second["messages"]] == ["First", "It is 4.", "Second"]
    await expect(page.locator("article.answer .tier-mark")).to_have_text(["Chat", "Reasoning"])


async def test_stop_keeps_what_has_come_and_offers_to_go_on(page: Page, script: Script) -> None:
    script.text, script.events_per_s = "One. " * 400, 50
    await send(page, "Count")
    await expect(page.locator(".markdown")).to_contain_text("One. One.")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator(".ending")).to_contain_text("Stopped.")
    kept = await page.locator(".markdown").inner_text()
    script.text, script.events_per_s = " Two.", 0
    await page.get_by_role("button", name="Go on").click()
    await expect(page.locator(".markdown")).to_contain_text("Two.")
    last = script.asked[-1]["messages"][-1]
    assert (last["role"], last["prefix"]) == ("assistant", True)
    assert last["content"].strip() == kept.strip()


async def test_escape_stops_and_nothing_else_is_needed_but_the_keyboard(
    page: Page, script: Script
) -> None:
    script.text, script.events_per_s = "One. " * 400, 50
    await page.keyboard.type("Count")
    await page.keyboard.press("Enter")
    await expect(page.locator(".markdown")).to_contain_text("One.")
    await page.keyboard.press("Escape")
    await expect(page.locator(".ending")).to_contain_text("Stopped.")
    await page.keyboard.press("Shift+Tab")
    reached = await page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert reached == "Delete"


async def test_escape_stops_wherever_the_focus_is_but_not_out_of_a_dialog(
    page: Page, script: Script
) -> None:
    script.text, script.events_per_s = "One. " * 400, 50
    await send(page, "Count")
    await expect(page.locator(".markdown")).to_contain_text("One.")
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("dialog").wait_for()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.get_by_role("searchbox").focus()
    await expect(page.get_by_role("button", name="Stop")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator(".ending")).to_contain_text("Stopped.")


async def test_what_is_not_sent_yet_is_still_there_after_a_look_at_the_status(
    page: Page, script: Script
) -> None:
    message = page.get_by_role("textbox", name="Message")
    await message.fill("A long question")
    await page.get_by_role("link", name="Status").click()
    await page.get_by_role("region", name="Chat").wait_for()
    await page.get_by_role("link", name="Chat").click()
    await expect(message).to_have_value("A long question")


async def test_a_dialog_gives_the_focus_back_but_takes_it_from_nobody(
    page: Page, script: Script
) -> None:
    focused = "document.activeElement.getAttribute('aria-label')"
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("dialog").wait_for()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await page.evaluate(focused) == "Settings"
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("dialog").wait_for()
    # As by someone who is quicker than the event that the browser sends of it.
    await page.evaluate(
        "document.querySelector('dialog').close(); document.querySelector('textarea').focus()"
    )
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await page.evaluate(focused) == "Message"
    # One whose own button ends it is taken away instead.
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("dialog").get_by_role("button", name="Close").last.click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await page.evaluate(focused) == "Settings"


async def test_regenerate_edit_and_delete(page: Page, script: Script) -> None:
    await ask(page, "How many?")
    script.text = "It is 5."
    await page.get_by_role("button", name="Regenerate").click()
    await expect(page.locator(".markdown")).to_have_text("It is 5.")
    question = page.locator("article.question")
    await question.hover()
    await question.get_by_role("button", name="Edit and send again").click()
    await page.get_by_role("textbox", name="Edit and send again").fill("How many pears?")
    await page.get_by_role("button", name="Send again").click()
    await expect(page.locator("article.question")).to_contain_text("How many pears?")
    await ended(page.locator("article.answer"))
    assert [asked["messages"][-1]["content"] for asked in script.asked] == [
        "How many?",
        "How many?",
        "How many pears?",
    ]
    await page.locator("article.question").hover()
    await page.locator("article.question").get_by_role("button", name="Delete").click()
    await expect(page.locator("article")).to_have_count(0)


async def test_the_place_in_the_queue_is_shown_while_it_waits(page: Page, script: Script) -> None:
    script.ahead, script.ahead_s = (3, 1, 0), 0.6
    await send(page, "Wait")
    for said in ("3 ahead", "1 ahead", "next"):
        await expect(page.locator(".waiting")).to_contain_text(said)
    await ended(page.locator("article.answer"))
    await expect(page.locator(".waiting")).to_have_count(0)


async def test_a_full_tier_counts_down_and_is_asked_again_by_itself(
    page: Page, script: Script
) -> None:
    script.refusals, script.retry_after_s = 2, 2
    await send(page, "Room?")
    await expect(page.locator(".waiting")).to_contain_text("Asking again in 2 s")
    await expect(page.locator(".waiting")).to_contain_text("Asking again in 1 s")
    await ended(page.locator("article.answer"))
    await expect(page.locator(".markdown")).to_have_text("It is 4.")
    assert len(script.asked) == 1


async def test_a_key_without_quota_reads_why_and_waits_for_minutes_but_not_for_hours(
    page: Page, script: Script
) -> None:
    script.refusal = "The API key `mia` has not enough left of its 10 requests a minute."
    script.refusals, script.retry_after_s, script.refusal_code = 1, 1, "rate_limit_exceeded"
    await send(page, "More?")
    await expect(page.locator(".waiting")).to_contain_text("requests a minute. Asking again in 1 s")
    await expect(page.locator(".markdown")).to_have_text("It is 4.")
    script.refusals, script.retry_after_s, script.refusal_code = 1, 40_000, "insufficient_quota"
    await send(page, "And more?")
    await expect(page.locator(".ending")).to_contain_text("has not enough left")
    await expect(page.locator(".ending").get_by_role("button", name="Try again")).to_be_visible()


async def test_the_count_down_can_be_cancelled(page: Page, script: Script) -> None:
    script.refusals, script.retry_after_s = 1, 60
    await send(page, "Room?")
    await page.locator(".waiting").get_by_role("button", name="Cancel").click()
    await expect(page.locator(".ending")).to_contain_text("Stopped.")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator(".markdown")).to_have_text("It is 4.")


async def test_a_broken_stream_says_what_is_kept_and_goes_on(page: Page, script: Script) -> None:
    script.text, script.events_per_s, script.break_after = "It is as I said: four.", 10, 3
    await send(page, "Break")
    await expect(page.locator(".ending")).to_contain_text("What had come by then is kept.")
    await expect(page.locator(".markdown")).to_have_text("It is as I s")
    script.text, script.break_after = "aid: four.", None
    await page.get_by_role("button", name="Go on").click()
    await expect(page.locator(".markdown")).to_have_text("It is as I said: four.")
    await expect(page.locator(".ending")).to_have_count(0)


async def test_an_answer_that_another_replica_went_on_with_says_so(
    page: Page, script: Script
) -> None:
    script.text, script.comments_after, script.replayed = "It is four.", 1, 1
    answer = await ask(page, "Replica lost?")
    await expect(answer.locator(".markdown")).to_have_text("It is four.")
    await expect(answer.locator(".figures")).to_contain_text("continued at another replica")
    await expect(answer.locator(".ending")).to_have_count(0)
    await page.reload()
    await page.locator(".list li .open").click()
    await expect(page.locator(".figures")).to_contain_text("continued at another replica")


async def test_settings_show_the_tiers_limits_and_are_never_above_them(
    page: Page, script: Script
) -> None:
    await page.get_by_role("radio", name="Reasoning").check()
    await page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("1 to 2,048")
    await expect(dialog).to_contain_text("0 to 1,536")
    limit = dialog.get_by_label("Most tokens of an answer")
    await limit.fill("99999")
    await limit.press("Tab")
    await expect(limit).to_have_value("2048")
    for label, value in {
        "System prompt": "Be brief.",
        "Temperature": "0.2",
        "Top p": "0.5",
        "Most tokens of reasoning": "100",
        "Seed": "7",
        "JSON schema": '{"type": "object"}',
    }.items():
        field = dialog.get_by_label(label)
        # As it is typed: `0.` is no number yet.
        await field.press_sequentially(value)
        await expect(field).to_have_value(value)
    await dialog.get_by_label("Task").select_option("math")
    await page.keyboard.press("Escape")
    await ask(page, "Now")
    (asked,) = script.asked
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["temperature"], asked["top_p"], asked["seed"]) == (0.2, 0.5, 7)
    assert (asked["max_completion_tokens"], asked["thinking_token_budget"]) == (2048, 100)
    assert asked["task"] == "math"
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_the_request_is_shown_as_curl_and_python(page: Page, script: Script) -> None:
    await ask(page, "It's 2+2?")
    await page.get_by_role("button", name="Show as code").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.locator("pre")).to_contain_text("/v1/chat/completions")
    await expect(dialog.locator("pre")).to_contain_text("2+2?")
    await dialog.get_by_role("radio", name="Python").check()
    await expect(dialog.locator("pre")).to_contain_text("client.chat.completions.create(")
    code = await dialog.locator("pre").inner_text()
    compile(code, "shown", "exec")


async def test_conversations_are_kept_renamed_found_moved_and_deleted(
    page: Page, script: Script, tmp_path: Path
) -> None:
    await ask(page, "Red apples")
    await page.get_by_role("button", name="New conversation").first.click()
    await ask(page, "Blue pears")
    await page.reload()
    entries = page.locator(".list li")
    await expect(entries).to_have_count(2)
    await page.get_by_role("searchbox").fill("apples")
    await expect(entries).to_have_count(1)
    await entries.hover()
    await entries.get_by_role("button", name="Rename").click()
    # What it asks for can be written at once, in the place of the old name.
    await expect(page.get_by_label("Name of the conversation")).to_be_focused()
    await page.keyboard.type("Fruit")
    await page.get_by_role("button", name="Save").click()
    await page.get_by_role("searchbox").fill("fruit")
    await entries.get_by_text("Fruit").click()
    await expect(page.locator("article.question")).to_contain_text("Red apples")
    async with page.expect_download() as downloading:
        await page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    await (await downloading.value).save_as(file)
    assert len(json.loads(file.read_text())["conversations"]) == 2
    await page.get_by_role("searchbox").fill("")
    await page.get_by_role("button", name="Delete all").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    await expect(entries).to_have_count(0)
    await page.locator("input[type=file]").set_input_files(file)
    await expect(entries).to_have_count(2)
    await entries.first.hover()
    await entries.first.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    await expect(entries).to_have_count(1)


async def test_a_page_that_is_closed_in_mid_answer_keeps_what_had_come(
    page: Page, script: Script
) -> None:
    script.text, script.events_per_s = "One. " * 400, 50
    await send(page, "Count")
    await expect(page.locator("[data-figure=tokens]")).to_have_text(re.compile(r"≈ (9\d|\d{3})"))
    await page.reload()
    await page.locator(".list li .open").click()
    await expect(page.locator(".ending")).to_contain_text("What had come by then is kept.")
    await expect(page.locator(".markdown")).to_contain_text("One. One.")
