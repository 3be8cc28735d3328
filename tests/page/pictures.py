"""Pictures of the page for docs/page.md, from a service that runs:

python -m serve_app serve --model micro-r1
python -m tests.page.pictures http://127.0.0.1:8000
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from tests.e2e.browser import ask, choose
from tests.page.browser import CHROMIUM, LAUNCH_ARGUMENTS

DOCS = Path(__file__).parents[2] / "docs"
SIZE = ViewportSize(width=1200, height=760)
# Requests at once, one step after the other: a load that comes, fills the slots and goes again.
STEPS = (2, 6, 12, 48, 20)
STEP_S = 10.0
MIA_GIVES, TOM_LOSES = 15, 7
# Reasoning about them takes 70, the last of which only check the result.
BUDGET_TOKENS = 58


def apples(number: int) -> str:
    return (
        f"Tom has {number} apples. Mia gives Tom {MIA_GIVES} more. Then Tom loses {TOM_LOSES} of "
        "them. How many apples does Tom have now?"
    )


def main(arguments: list[str]) -> int:
    """Takes a minute of load, and writes the pictures."""
    parser = argparse.ArgumentParser(description="Take the pictures of docs/page.md.")
    parser.add_argument("url", help="a service without keys, such as http://127.0.0.1:8000")
    parser.add_argument("--into", type=Path, default=DOCS, help="the folder of the pictures")
    options = parser.parse_args(arguments)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=LAUNCH_ARGUMENTS)
        take_chat(browser, options.url, options.into / "page-chat.png")
        with ThreadPoolExecutor() as pool:
            loading = pool.submit(load, options.url)
            time.sleep(STEP_S * (len(STEPS) - 0.4))
            take_status(browser, options.url, options.into / "page-status.png")
            loading.result()
        browser.close()
    return 0


def take_chat(browser: Browser, url: str, picture: Path) -> None:
    """The same question to each tier, the reasoning of the second cut at its budget. Small models
    err, so the first conversation whose answers are right is taken, and the last one if none is."""
    page = browser.new_page(viewport=SIZE, locale="en-US")
    page.goto(url)
    choose(page, Temperature="0")
    page.get_by_role("radio", name="Reasoning").check()
    choose(page, Temperature="0", Most_tokens_of_reasoning=str(BUDGET_TOKENS))
    if not any(right_conversation(page, number) for number in range(12, 32)):
        sys.stderr.write("No conversation was right: the last one is taken.\n")
    page.locator("article.answer").last.locator("summary").click()
    page.screenshot(path=picture)
    page.close()


def right_conversation(page: Page, number: int) -> bool:
    """Asks both tiers; whether both answers are right, and the second's reasoning was cut."""
    page.get_by_role("button", name="New conversation").first.click()
    right = True
    for tier in ("Chat", "Reasoning"):
        page.get_by_role("radio", name=tier).check()
        answer = ask(page, apples(number))
        right &= str(number + MIA_GIVES - TOM_LOSES) in answer.locator(".markdown").inner_text()
    return right and page.locator("article.answer").last.locator(".cut").count() == 1


def take_status(browser: Browser, url: str, picture: Path) -> None:
    """As it is then."""
    page = browser.new_page(viewport=SIZE, locale="en-US")
    page.goto(f"{url}/#status")
    page.locator("canvas").first.wait_for()
    page.wait_for_timeout(2000)
    page.screenshot(path=picture)
    page.close()


def load(url: str) -> None:
    """Requests to both tiers; those that are refused are part of the picture."""
    with ThreadPoolExecutor(max(STEPS)) as pool:
        for at_once in STEPS:
            ends_s = time.monotonic() + STEP_S
            asking = [pool.submit(ask_until, url, number, ends_s) for number in range(at_once)]
            for each in asking:
                each.result()


def ask_until(url: str, number: int, ends_s: float) -> None:
    """One request after the other."""
    tier = "reasoning" if number % 4 == 3 else "chat"
    message = {"role": "user", "content": apples(number)}
    fields = {"model": tier, "messages": [message], "max_tokens": 200, "stream": True}
    body = json.dumps(fields).encode()
    headers = {"content-type": "application/json"}
    while time.monotonic() < ends_s:
        request = urllib.request.Request(f"{url}/v1/chat/completions", body, headers)
        try:
            urllib.request.urlopen(request).read()
        except urllib.error.HTTPError:
            time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
