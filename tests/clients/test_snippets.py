"""docs/clients.md, its snippets and the versions: what can be said without the packages."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.clients.environments import NODE, PINS, REPOSITORY
from tests.clients.open_webui import read_env
from tests.clients.snippets import DOCUMENT, PROXY, SERVICE, Snippet, snippets

SNIPPETS = list(snippets())
COMPOSE = REPOSITORY / "deploy/compose.yaml"


def test_every_block_of_code_is_run() -> None:
    text = DOCUMENT.read_text()
    code = re.findall(r"^```(?:python|javascript)$", text, re.MULTILINE)
    setups = re.findall(r"^<!-- run: .*; setup -->$", text, re.MULTILINE)
    command_lines = [snippet for snippet in SNIPPETS if snippet.language == "bash"]
    assert len(code) == len(SNIPPETS) - len(command_lines) + len(setups)


def test_every_client_has_a_snippet() -> None:
    # Open WebUI is used as a server instead.
    assert {snippet.client for snippet in SNIPPETS} | {"open-webui"} == set(PINS)


@pytest.mark.parametrize(
    "snippet", SNIPPETS, ids=lambda snippet: f"{snippet.client}-{snippet.title}"
)
def test_a_snippet_is_whole(snippet: Snippet) -> None:
    assert snippet.expect
    if snippet.language == "python":
        ast.parse(snippet.text)
    elif snippet.language == "bash":
        subprocess.run(["bash", "-n"], input=snippet.text, text=True, check=True)
    else:
        assert snippet.client in NODE


@pytest.mark.parametrize(
    "snippet", SNIPPETS, ids=lambda snippet: f"{snippet.client}-{snippet.title}"
)
def test_a_snippet_asks_the_service_that_is_tried(snippet: Snippet) -> None:
    there, proxy = "http://there", "http://proxy"
    script = snippet.script(there, proxy)
    assert there in script or proxy in script
    assert SERVICE not in script
    assert PROXY not in script


def test_a_snippet_is_another_one_when_it_or_what_it_must_print_changes(tmp_path: Path) -> None:
    document = tmp_path / "clients.md"
    text = "# A\n<!-- run: llm; expect: 57 -->\n```bash\nllm x\n```\n"
    keys: set[str] = set()
    for changed in (text, text.replace("57", "58"), text.replace("llm x", "llm y")):
        document.write_text(changed)
        keys.update(snippet.key for snippet in snippets(document))
    assert len(keys) == 3


def test_a_setup_begins_the_later_snippets_of_its_client(tmp_path: Path) -> None:
    document = tmp_path / "clients.md"
    document.write_text(
        "# A\n<!-- run: anthropic; setup -->\n```python\na = 1\n```\n"
        f'<!-- run: anthropic; expect: x: y -->\n```python\nb = "{SERVICE}"\n```\n'
        "# B\n<!-- run: openai-python; title: t; before: full-tier -->\n```python\nc = 3\n```\n"
    )
    first, second = snippets(document)
    assert first.script("http://there") == 'a = 1\nb = "http://there"\n'
    assert (first.title, first.expect) == ("A", "x: y")
    assert (second.title, second.text, second.before) == ("t", "c = 3\n", "full-tier")


def test_the_document_and_the_image_have_the_tried_versions() -> None:
    rows = "\n".join(re.findall(r"^\|.*\|$", DOCUMENT.read_text(), re.MULTILINE))
    for pins in PINS.values():
        for pin in pins:
            name, version = re.split(r"==|(?<=\w)@", pin)
            assert version in rows or name == "playwright-core", pin
    image = yaml.safe_load(COMPOSE.read_text())["services"]["open-webui"]["image"]
    assert f":v{PINS['open-webui'][0].split('==')[1]}" in image


def test_the_settings_of_open_webui_are_plain_lines() -> None:
    env = read_env()
    assert env["OPENAI_API_BASE_URLS"] == f"{SERVICE}/v1"
    for name in ("OPENAI_API_CONFIGS", "TASK_MODEL_PARAMS", "DEFAULT_MODEL_PARAMS"):
        assert yaml.safe_load(env[name]), name
    assert not [value for value in env.values() if value[0] in "\"'"]
