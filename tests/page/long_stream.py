"""What the page holds while one answer streams for minutes, in front of the scripted service:

python -m tests.page.long_stream --minutes 5

Exits with 1 where its scripts hold more at the end than the answer's own text explains.
"""

import argparse
import asyncio
import sys

from playwright.async_api import async_playwright

from tests.api.loopback import served
from tests.page.browser import CHROMIUM, LAUNCH_ARGUMENTS
from tests.page.chat_page import send
from tests.page.scripted_service import Script, ScriptedService
from tests.page.test_appearance import heap_bytes

TOKENS_PER_S = 60
PARAGRAPH = "Words with **bold** and \\(x^2\\) and some more of them.\n\n- one\n- two\n\n"
# Of Markdown: text, tokens and the nodes that they are drawn as. Measured: 12 to 20.
MOST_BYTES_PER_CHAR = 60


async def main(arguments: list[str]) -> int:
    """Prints the heap each minute."""
    parser = argparse.ArgumentParser(description="Watch the page's memory under a long stream.")
    parser.add_argument("--minutes", type=int, default=5)
    minutes = parser.parse_args(arguments).minutes
    chars = minutes * 60 * TOKENS_PER_S * 4
    text = (PARAGRAPH * (chars // len(PARAGRAPH) + 1))[:chars]
    service = ScriptedService(Script(text=text, events_per_s=TOKENS_PER_S))
    async with served(service.app()) as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=LAUNCH_ARGUMENTS)
        page = await browser.new_page(locale="en-US")
        await page.goto(url)
        devtools = await page.context.new_cdp_session(page)
        await send(page, "At length")
        held_bytes: list[int] = []
        for minute in range(1, minutes + 1):
            await asyncio.sleep(60)
            held_bytes.append(await heap_bytes(devtools))
            tokens = await page.locator("[data-figure=tokens]").inner_text()
            say(f"{minute} min: {held_bytes[-1] / 1e6:.1f} MB, {tokens}")
        await page.locator("article.answer .actions").wait_for(timeout=60_000)
        await page.get_by_role("button", name="New conversation").first.click()
        left_bytes = await heap_bytes(devtools)
        say(f"the conversation left: {left_bytes / 1e6:.1f} MB")
        await browser.close()
    grown_bytes = max(held_bytes) - held_bytes[0]
    return 0 if grown_bytes <= MOST_BYTES_PER_CHAR * chars else 1


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
