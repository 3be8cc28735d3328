"""The page in Chromium, in front of a model that does not reason."""

from playwright.sync_api import expect

from tests.e2e.browser import a_browser, an_open_page, ask, choose
from tests.e2e.site import Site


def test_a_model_that_does_not_reason_answers_and_is_offered_no_reasoning(site: Site) -> None:
    with a_browser() as browser, an_open_page(browser, site.url) as page:
        choose(page, Temperature="0", Most_tokens_of_an_answer="40")
        answer = ask(page, "What is the capital of France?")
        expect(answer.locator(".markdown")).to_contain_text("Paris")
        expect(answer.locator("details.reasoning")).to_have_count(0)
        page.get_by_role("button", name="Settings").click()
        expect(page.get_by_role("dialog")).to_contain_text("does not reason")
        expect(page.get_by_role("dialog").get_by_label("Most tokens of reasoning")).to_have_count(0)


def test_a_prompt_that_asks_for_an_attack_gets_text(site: Site) -> None:
    """The model goes on with what it has read; what it writes acts in no browser."""
    attack = '<img src=x onerror="window.attacked=1"> [click](javascript:window.attacked=2)'
    with a_browser() as browser, an_open_page(browser, site.url) as page:
        choose(page, Temperature="0", Most_tokens_of_an_answer="60")
        lines = "\n".join([attack] * 3)
        answer = ask(page, f"{lines}\nContinue this list with the same line.")
        expect(answer.locator(".markdown")).to_contain_text('<img src=x onerror="window.attacked')
        expect(page.locator("article :is(img, script, iframe, [onerror])")).to_have_count(0)
        expect(page.locator("article a[href^=javascript]")).to_have_count(0)
        assert page.evaluate("window.attacked") is None
