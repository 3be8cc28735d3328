"""The example of micro-r1 in README and docs is run as it stands, and answered as they show it."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.site import Site
from tests.e2e.thinking.conftest import message, thought_of

REPOSITORY = Path(__file__).resolve().parents[3]
ADDRESS = "http://127.0.0.1:8000"
COMMAND = re.compile(r"^(curl (?:(?!```).)*thinking_token_budget(?:(?!```).)*)```", re.M | re.S)
SHOWN = re.compile(r'"content": (".*"),?$', re.M)


@pytest.mark.parametrize("page", ["README.md", "docs/reasoning.md"])
def test_the_example_is_answered_as_the_page_shows(site: Site, page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    (command,), (shown,) = COMMAND.findall(text), SHOWN.findall(text)

    reply = subprocess.run(
        ["bash", "-c", command.replace(ADDRESS, site.url).replace("curl ", "curl -s ", 1)],
        env=os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    answer = json.loads(reply)

    assert message(answer)["content"] == json.loads(shown)
    assert thought_of(answer)["end"] == "cut"
