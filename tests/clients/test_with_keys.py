"""Real clients with a right key, a wrong one and over a quota: what they raise, how often they ask.

Those that are not among the project's own packages are run where `make test-clients` has installed
them.
"""

import asyncio
import os
import sys

import pytest

from serve_app.core.access.lease import Refusal
from tests.api.fake_keys import TEAM, WRONG, FakeQuotas
from tests.api.key_service import Once, a_service
from tests.clients.environments import CACHE

OPENAI = """
import openai, sys
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2])
messages = [{"role": "user", "content": "Hi"}]
answer = client.chat.completions.create(model="chat", messages=messages, max_tokens=5)
print(answer.choices[0].message.content)
"""
ANTHROPIC = """
import anthropic, sys
client = anthropic.Anthropic(base_url=sys.argv[1], api_key=sys.argv[2])
messages = [{"role": "user", "content": "Hi"}]
print(client.messages.create(model="chat", messages=messages, max_tokens=5).id)
"""
LITELLM = """
import os, sys
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
messages = [{"role": "user", "content": "Hi"}]
service = {"api_base": sys.argv[1] + "/v1", "api_key": sys.argv[2]}
answer = litellm.completion(model="openai/chat", messages=messages, max_tokens=5, **service)
print(answer.choices[0].message.content)
"""
LANGCHAIN = """
import sys
from langchain_openai import ChatOpenAI
service = {"base_url": sys.argv[1] + "/v1", "api_key": sys.argv[2]}
print(ChatOpenAI(model="chat", max_tokens=5, **service).invoke("Hi").content)
"""
NODE = """
const { default: OpenAI } = await import(process.argv[3]);
const client = new OpenAI({ baseURL: process.argv[1] + "/v1", apiKey: process.argv[2] });
const messages = [{ role: "user", content: "Hi" }];
const answer = await client.chat.completions.create({ model: "chat", messages, max_tokens: 5 });
console.log(answer.choices[0].message.content);
"""
NODE_PACKAGE = CACHE / "openai-node/node_modules/openai/index.mjs"
# None: the project's own environment.
CLIENTS = {
    "anthropic-own": (None, ANTHROPIC),
    "openai-python": ("openai-python", OPENAI),
    "anthropic": ("anthropic", ANTHROPIC),
    "litellm": ("litellm", LITELLM),
    "langchain": ("langchain", LANGCHAIN),
    "openai-node": ("openai-node", NODE),
}


async def ask(client: str, url: str, key: bytes) -> tuple[int, str]:
    """Its exit status and what it printed, errors as well."""
    environment, program = CLIENTS[client]
    command = [sys.executable, "-c", program]
    if environment is not None:
        if not (CACHE / environment).exists():
            pytest.skip("the client is installed by `make test-clients`")
        command = [str(CACHE / environment / "bin/python"), "-c", program]
    if program is NODE:
        command = ["node", "--input-type=module", "-e", program]
    extra = [str(NODE_PACKAGE)] if program is NODE else []
    process = await asyncio.create_subprocess_exec(
        *command,
        url,
        key.decode(),
        *extra,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


@pytest.mark.parametrize("client", CLIENTS)
async def test_with_its_key_it_is_answered(client: str) -> None:
    async with a_service(FakeQuotas()) as service:
        status, printed = await ask(client, service.url, TEAM)
    assert status == 0, printed
    assert service.statuses == [200]


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_wrong_key_is_an_authentication_error_and_asked_once(client: str) -> None:
    async with a_service(FakeQuotas()) as service:
        status, printed = await ask(client, service.url, WRONG)
    assert status != 0
    assert "AuthenticationError" in printed
    assert service.statuses == [401]


@pytest.mark.parametrize("client", CLIENTS)
async def test_over_a_limit_of_a_minute_it_waits_and_is_served(client: str) -> None:
    async with a_service(Once(Refusal("tokens_per_minute", 1000, 0.4))) as service:
        status, printed = await ask(client, service.url, TEAM)
    assert status == 0, printed
    assert service.statuses == [429, 200]


@pytest.mark.parametrize("client", CLIENTS)
async def test_over_a_limit_of_a_day_it_asks_once(client: str) -> None:
    refusal = Refusal("tokens_per_day", 500, 9000.0)
    async with a_service(Once(refusal, always=True)) as service:
        status, printed = await ask(client, service.url, TEAM)
    assert status != 0
    assert "RateLimitError" in printed
    assert service.statuses == [429]
