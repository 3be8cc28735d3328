"""What the page holds while it streams for minutes: one answer of the scripted service, or answer
upon answer of a real one, whose limit of tokens ends each:

python -m tests.page.long_stream --minutes 5
python -m tests.page.long_stream --minutes 5 --url http://127.0.0.1:8000

Exits with 1 where its scripts hold more at the end than the answer's own text explains; of a real
service, where they hold more than once the first answers were there.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import CDPSession, Page, Route, async_playwright

from tests.api.loopback import served
from tests.page.browser import CHROMIUM, LAUNCH_ARGUMENTS
from tests.page.chat_page import send
from tests.page.scripted_service import Script, ScriptedService
from tests.page.test_appearance import heap_bytes

TOKENS_PER_S = 60
PARAGRAPH = "Words with **bold** and \\(x^2\\) and some more of them.\n\n- one\n- two\n\n"
# Of Markdown: text, tokens and the nodes that they are drawn as. Measured: 12 to 20.
MOST_BYTES_PER_CHAR = 60
# Where each answer takes the place of the one before.
MOST_GROWN_BYTES = 1_000_000
ANSWER_WITHIN_MS = 300_000


async def main(arguments: list[str]) -> int:
    """Prints what is held each minute."""
    parser = argparse.ArgumentParser(description="Watch the page's memory under a long stream.")
    parser.add_argument("--minutes", type=int, default=5)
    parser.add_argument("--url", help="a service without keys, such as http://127.0.0.1:8000")
    parser.add_argument("--tier", choices=["chat", "reasoning"], default="reasoning")
    options = parser.parse_args(arguments)
    if options.url:
        if options.minutes < 2:
            parser.error("--minutes: the first one is none to compare with, so at least 2")
        return await of_a_service(options.url, options.tier, options.minutes)
    return await of_one_answer(options.minutes)


async def of_one_answer(minutes: int) -> int:
    """Its text is all that may be held at the end."""
    chars = minutes * 60 * TOKENS_PER_S * 4
    text = (PARAGRAPH * (chars // len(PARAGRAPH) + 1))[:chars]
    service = ScriptedService(Script(text=text, events_per_s=TOKENS_PER_S))
    async with served(service.app()) as url, an_open_page(url) as (page, devtools):
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
    grown_bytes = max(held_bytes) - held_bytes[0]
    return 0 if grown_bytes <= MOST_BYTES_PER_CHAR * chars else 1


async def of_a_service(url: str, tier: str, minutes: int) -> int:
    """A tier's answers, each as long as its limit allows, one in the place of another: nothing that
    is held may grow."""
    async with an_open_page(url) as (page, devtools):
        await page.route("**/v1/chat/completions", without_end)
        await page.get_by_role("radio", name=tier.title()).check()
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + 60 * minutes
        next_s, tokens, answers = loop.time(), 0, 0
        held_bytes: list[int] = []
        await send(page, "At length")
        while True:
            actions = page.locator("article.answer .actions")
            await actions.wait_for(timeout=ANSWER_WITHIN_MS)
            said = await page.locator("[data-figure=tokens]").inner_text()
            tokens, answers = tokens + int(re.sub(r"\D", "", said)), answers + 1
            if loop.time() >= next_s:
                held_bytes.append(await heap_bytes(devtools))
                say(f"{answers} answers, {tokens} tokens: {held_bytes[-1] / 1e6:.2f} MB")
                next_s += 60
            if loop.time() >= ends_s:
                break
            await page.get_by_role("button", name="Regenerate").click()
    # What is loaded and compiled with the first answers is no growth.
    _, settled_bytes, *later_bytes = held_bytes
    return 0 if max(later_bytes) - settled_bytes <= MOST_GROWN_BYTES else 1


async def without_end(route: Route) -> None:
    """The request, bound to go on until the tier's limit."""
    asked = json.loads(route.request.post_data or "{}")
    endless = {**asked, "ignore_eos": True, "temperature": 1.5}
    await route.continue_(post_data=json.dumps(endless))


@asynccontextmanager
async def an_open_page(url: str) -> AsyncIterator[tuple[Page, CDPSession]]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=LAUNCH_ARGUMENTS)
        page = await browser.new_page(locale="en-US")
        await page.goto(url)
        yield page, await page.context.new_cdp_session(page)
        await browser.close()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
