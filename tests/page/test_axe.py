"""axe-core looks at the page as it is used, and has nothing to say."""

from typing import Any

import pytest
from playwright.async_api import Browser, Page, ViewportSize, expect

from tests.page.axe import AXE, RUN, missing, said
from tests.page.chat_page import ask
from tests.page.conftest import Running
from tests.page.scripted_service import Script

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

EVERYTHING = """\
A [link](https://a.b), `code`, \\(x\\)

```python
def f(): return 'a' # b
```

| a |
|---|
| 1 |
"""


@pytest.mark.parametrize("colours", ["light", "dark"])
async def test_axe_finds_nothing(
    browser: Browser, running: Running, script: Script, colours: Any
) -> None:
    if reason := missing():
        pytest.skip(reason)
    script.reasoning, script.end = "Hm. ", "cut"
    script.text = EVERYTHING
    script.usage = [{"key": "mia", "requests": 3}]
    async with await browser.new_context(
        color_scheme=colours, bypass_csp=True, locale="en-US"
    ) as context:
        page = await context.new_page()
        await page.goto(running.url)
        await page.get_by_role("textbox", name="Message").wait_for()
        await page.add_script_tag(path=AXE)
        assert await findings(page) == []
        answer = await ask(page, "Hello")
        await answer.locator("summary").click()
        assert await findings(page) == []
        await page.get_by_role("button", name="Settings").click()
        assert await findings(page) == []
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Show as code").click()
        assert await findings(page) == []
        await page.keyboard.press("Escape")
        await page.get_by_role("link", name="Status").click()
        await page.locator("canvas").first.wait_for()
        assert await findings(page) == []


async def findings(page: Page) -> list[str]:
    """What axe-core has to say of the page as it is."""
    return said(await page.evaluate(RUN))


async def test_axe_finds_nothing_on_a_phone_in_chinese_where_things_go_wrong(
    browser: Browser, running: Running, script: Script
) -> None:
    if reason := missing():
        pytest.skip(reason)
    async with await browser.new_context(
        viewport=ViewportSize(width=360, height=740),
        is_mobile=True,
        has_touch=True,
        bypass_csp=True,
        locale="zh-CN",
    ) as context:
        page = await context.new_page()
        script.key = "ts-good"
        await page.goto(running.url)
        await page.get_by_role("dialog").wait_for()
        await page.add_script_tag(path=AXE)
        assert await findings(page) == []
        await page.keyboard.press("Escape")
        script.key = None
        script.text, script.events_per_s, script.break_after = "It is as I said: four.", 10, 3
        await page.get_by_role("textbox", name="消息").fill("坏了")
        await page.get_by_role("button", name="发送").click()
        await page.locator(".ending").wait_for()
        assert await findings(page) == []
        script.refusals, script.retry_after_s = 1, 60
        await page.get_by_role("button", name="重新生成").click()
        await page.get_by_role("button", name="取消").wait_for()
        assert await findings(page) == []
        await page.get_by_role("button", name="取消").click()
        await page.get_by_role("button", name="编辑并重新发送").click()
        assert await findings(page) == []
        await page.get_by_role("button", name="显示对话列表").click()
        for name in ("重命名", "全部删除"):
            await page.get_by_role("button", name=name).click()
            await page.get_by_role("dialog").wait_for()
            assert await findings(page) == []
            await page.keyboard.press("Escape")
            await expect(page.get_by_role("dialog")).to_have_count(0)
