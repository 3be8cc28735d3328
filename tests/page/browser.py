"""Chromium of the system, driven by Playwright; what is missing is the reason why tests skip."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

from serve_app.api.page import DIST

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Chromium's sandbox takes no root, whom containers often have.
# A name of this machine's that Chromium, other than localhost, does not take for secure.
PLAIN_HOST = "tierserve.test"
LAUNCH_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    f"--host-resolver-rules=MAP {PLAIN_HOST} 127.0.0.1",
]

# Of each turn of each conversation, as the browser keeps them.
KEPT_TEXTS = """async () => {
    const opened = indexedDB.open('tierserve', 1);
    await new Promise(resolve => opened.onsuccess = resolve);
    const all = opened.result.transaction('conversations').objectStore('conversations').getAll();
    await new Promise(resolve => all.onsuccess = resolve);
    opened.result.close();
    return all.result.map(each => each.turns.map(turn => turn.text));
}"""


def missing() -> str | None:
    """Why the page cannot be tried here."""
    if CHROMIUM is None:
        return "no chromium (Debian: apt install chromium)"
    if not (DIST / "index.html").is_file():
        return "the page is not built (make setup, with npm's registry)"
    return None


@asynccontextmanager
async def a_browser() -> AsyncIterator[Browser]:
    """One process for all tests of a folder; each opens a context of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=LAUNCH_ARGUMENTS,
        )
        try:
            yield browser
        finally:
            await browser.close()
