"""What a user does in the chat, as tests say it."""

from playwright.async_api import Locator, Page, expect

TIMEOUT_MS = 30_000
expect.set_options(timeout=TIMEOUT_MS)


async def send(page: Page, text: str) -> None:
    await page.get_by_role("textbox", name="Message").fill(text)
    await page.keyboard.press("Enter")


async def ask(page: Page, text: str) -> Locator:
    """The answer, once it has ended."""
    before = await page.locator("article.answer").count()
    await send(page, text)
    answer = page.locator("article.answer").nth(before)
    await ended(answer)
    return answer


async def ended(answer: Locator) -> None:
    await answer.get_by_role("button", name="Delete").wait_for(timeout=TIMEOUT_MS)
