"""The page in Chromium, in front of real vLLM: asked, cut, stopped, gone on, and watched."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import a_browser, an_open_page, ask, choose, ended, kept_texts
from tests.e2e.site import Site, wait_for

QUESTION = (
    "Tom has 12 apples. Mia gives Tom 15 more. Then Tom loses 7 of them. How many apples does Tom "
    "have now?"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as started:
        yield started


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """The reasoning tier is chosen."""
    with an_open_page(browser, site.url) as visited:
        visited.get_by_role("radio", name="Reasoning").check()
        yield visited


def test_a_question_is_answered_with_its_reasoning_folded_and_its_figures_exact(page: Page) -> None:
    choose(page, Temperature="0")
    answer = ask(page, QUESTION)
    expect(answer.locator(".markdown")).to_contain_text("20 apples")
    expect(answer.locator(".maths-boxed")).to_have_text("20")
    expect(answer.locator(".reasoning-text")).to_be_hidden()
    answer.locator("summary").click()
    expect(answer.locator(".reasoning-text")).to_contain_text("27-7=20")
    for figure in ("tokens", "speed", "ttft", "total", "reasoning-tokens", "reasoning-time"):
        expect(answer.locator(f"[data-figure={figure}]")).to_contain_text(re.compile(r"^[^≈]*\d"))


def test_reasoning_that_was_cut_at_its_budget_says_so(page: Page) -> None:
    choose(page, Temperature="0", Most_tokens_of_reasoning="20")
    answer = ask(page, QUESTION)
    expect(answer.locator("summary")).to_contain_text("cut at its budget")
    expect(answer.locator(".markdown")).to_contain_text("apples")


def test_the_tier_is_switched_in_mid_conversation(page: Page) -> None:
    ask(page, QUESTION)
    page.get_by_role("radio", name="Chat").check()
    ask(page, "And if two more are lost?")
    expect(page.locator("article.answer .tier-mark")).to_have_text(["Reasoning", "Chat"])


def test_an_answer_at_its_limit_goes_on_where_it_stopped(page: Page) -> None:
    choose(page, Temperature="0", Most_tokens_of_an_answer="9", Most_tokens_of_reasoning="0")
    answer = ask(page, QUESTION)
    expect(answer.locator(".ending")).to_contain_text("Stopped at its limit of tokens.")
    begun = answer.locator(".markdown").inner_text().strip()
    answer.get_by_role("button", name="Go on").click()
    expect(answer.locator("[data-figure=tokens]")).to_have_text("18 tokens")
    whole = answer.locator(".markdown").inner_text().strip()
    assert whole.startswith(begun)
    assert len(whole) > len(begun)


def test_stop_gives_the_slot_back(page: Page, site: Site) -> None:
    page.get_by_role("textbox", name="Message").fill(QUESTION)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("article.answer").get_by_role("button", name="Delete")).to_be_visible()
    wait_for(site.is_idle, "the slot of a stopped answer given back")


def test_the_request_is_shown_as_curl_and_python_that_run_as_they_are_shown(page: Page) -> None:
    choose(page, Temperature="0", Most_tokens_of_reasoning="40", Seed="7")
    answer = ask(page, f'It\'s like this: {QUESTION}\n"Quoted", $HOME, \\n and 数 too.')
    text = answer.locator(".markdown").inner_text().strip()
    number = text.split()[-1].strip(".")
    answer.get_by_role("button", name="Show as code").click()
    dialog = page.get_by_role("dialog")
    curl = dialog.locator("code").inner_text()
    dialog.get_by_role("radio", name="Python").check()
    python = dialog.locator("code").inner_text()
    for command in (["bash", "-c", curl], [sys.executable, "-c", python]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert number in done.stdout
    assert (
        "data: [DONE]"
        in subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60).stdout
    )


def test_the_status_shows_what_was_just_answered(page: Page) -> None:
    ask(page, QUESTION)
    page.get_by_role("link", name="Status").click()
    tier = page.get_by_role("region", name="Reasoning")
    expect(tier.locator("[data-tile=slots]")).to_contain_text("0 / 32")
    expect(tier.get_by_role("table")).to_contain_text("ready")
    expect(tier.locator("[data-tile=ttft] .value")).to_contain_text(re.compile(r"\d s"))
    expect(tier.locator("canvas")).to_have_count(6)
    expect(tier.locator(".decisions")).to_contain_text("running 0 in 32 slots")


def test_an_answer_keeps_to_the_json_schema_that_was_chosen(page: Page) -> None:
    whole_number = {"type": "object", "properties": {"apples": {"type": "integer"}}}
    schema = {**whole_number, "required": ["apples"], "additionalProperties": False}
    choose(page, Temperature="0", JSON_schema_of_the_answer=json.dumps(schema))
    answer = ask(page, QUESTION)
    assert isinstance(json.loads(answer.locator("pre code").inner_text())["apples"], int)
    choose(page, JSON_schema_of_the_answer='{"type": "none of this"}')
    refused = ask(page, QUESTION)
    expect(refused.locator(".ending")).to_contain_text("`response_format` is refused")


def test_every_setting_is_taken_by_the_service_and_none_is_above_its_limits(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog")
    limit = dialog.get_by_label("Most tokens of an answer")
    expect(dialog).to_contain_text("1 to 2,048")
    limit.fill("999999")
    limit.press("Tab")
    expect(limit).to_have_value("2048")
    for label, value in {"Temperature": "0.2", "Top p": "0.5", "Seed": "7"}.items():
        dialog.get_by_label(label).fill(value)
    dialog.get_by_label("Task").select_option("math")
    dialog.get_by_label("Effort of reasoning").select_option("low")
    dialog.get_by_label("System prompt").fill("Answer briefly.")
    page.keyboard.press("Escape")
    answer = ask(page, QUESTION)
    expect(answer.locator(".markdown")).to_contain_text("apples")
    expect(answer.locator(".ending, .warning")).to_have_count(0)
    answer.get_by_role("button", name="Show as code").click()
    for field in ('"top_p": 0.5', '"reasoning_effort": "low"', '"task": "math"', '"seed": 7'):
        expect(page.get_by_role("dialog").locator("code")).to_contain_text(field)
    page.keyboard.press("Escape")
    # The other tier has settings and limits of its own.
    page.get_by_role("radio", name="Chat").check()
    page.get_by_role("button", name="Settings").click()
    expect(dialog).to_contain_text("1 to 1,024")
    for label in ("Temperature", "Seed", "Most tokens of an answer"):
        expect(dialog.get_by_label(label)).to_have_value("")


def test_a_seed_repeats_its_answer_and_another_one_does_not(page: Page) -> None:
    # This tier keeps no answers.
    page.get_by_role("radio", name="Chat").check()
    answers: list[str] = []
    for seed in ("7", "7", "8"):
        choose(page, Temperature="2", Seed=seed, Most_tokens_of_an_answer="60")
        answer = ask(page, "Tell me a story.")
        answers.append(answer.locator(".reasoning-text").text_content() or "")
        page.get_by_role("button", name="New conversation").first.click()
    assert answers[0] == answers[1] != answers[2]


def test_conversations_are_changed_found_moved_and_deleted(page: Page, tmp_path: Path) -> None:
    choose(page, Temperature="0", System_prompt="Answer briefly.")
    answer = ask(page, QUESTION)
    answer.get_by_role("button", name="Regenerate").click()
    ended(page)
    expect(page.locator("article.answer")).to_have_count(1)
    page.locator("article.question").hover()
    page.get_by_role("button", name="Edit and send again").click()
    page.get_by_role("textbox", name="Edit").fill(QUESTION.replace("12", "14"))
    page.get_by_role("button", name="Send again").click()
    expect(page.locator("article.answer .maths-boxed")).to_have_text("22")
    page.get_by_role("button", name="New conversation").first.click()
    ask(page, QUESTION.replace("apples", "pears"))
    page.reload()
    entries = page.locator(".list li")
    expect(entries).to_have_count(2)
    page.get_by_role("searchbox").fill("pears")
    expect(entries).to_have_count(1)
    entries.get_by_role("button", name="Rename").click()
    page.get_by_label("Name of the conversation").fill("Fruit")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("searchbox").fill("")
    expect(entries.filter(has_text="Fruit")).to_have_count(1)
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    downloading.value.save_as(file)
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    expect(entries).to_have_count(0)
    page.locator("input[type=file]").set_input_files(file)
    expect(entries).to_have_count(2)
    page.get_by_text("apples").click()
    # The name and the figures have come along, and the model goes on in what was moved.
    expect(entries.filter(has_text="Fruit")).to_have_count(1)
    expect(page.locator("[data-figure=reasoning-tokens]")).to_contain_text("tokens")
    ask(page, "And if two more are lost?")
    assert [len(texts) for texts in sorted(kept_texts(page), key=len)] == [2, 4]
    entries.filter(has_text="Fruit").hover()
    page.get_by_role("button", name="Delete conversation: Fruit").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(entries).to_have_count(1)
    assert [len(texts) for texts in kept_texts(page)] == [4]
