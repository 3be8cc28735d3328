"""The pictures of docs/page.md, from a service that runs:

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

from playwright.sync_api import Browser, ViewportSize, sync_playwright

from tests.e2e.browser import ask, choose
from tests.page.browser import CHROMIUM, LAUNCH_ARGUMENTS

DOCS = Path(__file__).parents[2] / "docs"
SIZE = ViewportSize(width=1200, height=760)
# Requests at once, one step after the other: a load that comes, fills the slots and goes again.
STEPS = (2, 6, 12, 48, 20, 4)
STEP_S = 10.0
APPLES = (
    "Tom has 12 apples. Mia gives Tom 15 more. Then Tom loses 7 of them. How many apples does Tom "
    "have now?"
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
        load(options.url)
        take_status(browser, options.url, options.into / "page-status.png")
        browser.close()
    return 0


def take_chat(browser: Browser, url: str, picture: Path) -> None:
    """A turn of each tier, the reasoning of the second cut at its budget."""
    page = browser.new_page(viewport=SIZE, locale="en-US")
    page.goto(url)
    choose(page, Temperature="0")
    ask(page, APPLES)
    page.get_by_role("radio", name="Reasoning").check()
    choose(page, Temperature="0", Most_tokens_of_reasoning="20")
    ask(page, APPLES.replace("12", "30")).locator("summary").click()
    page.screenshot(path=picture)
    page.close()


def take_status(browser: Browser, url: str, picture: Path) -> None:
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
            list(pool.map(lambda number: ask_until(url, number, ends_s), range(at_once)))  # noqa: B023


def ask_until(url: str, number: int, ends_s: float) -> None:
    tier = "reasoning" if number % 4 == 3 else "chat"
    message = {"role": "user", "content": APPLES.replace("12", str(number))}
    body = json.dumps({"model": tier, "messages": [message], "max_tokens": 200}).encode()
    headers = {"content-type": "application/json"}
    while time.monotonic() < ends_s:
        request = urllib.request.Request(f"{url}/v1/chat/completions", body, headers)
        try:
            urllib.request.urlopen(request).read()
        except urllib.error.HTTPError:
            time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
