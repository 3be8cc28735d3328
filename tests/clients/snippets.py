"""The fenced blocks of docs/clients.md that are run: what a reader copies is what is tried.

A comment before a block says with which packages it runs and what its output must match:

    <!-- run: openai-python; expect: 54 -->

`setup` makes a block the beginning of the following ones of its client. `before: full-tier` puts a
server before the service that refuses the first request; `before: litellm` LiteLLM's proxy. A block
of bash runs with the client's programs in its path.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.clients.environments import PINS, REPOSITORY

DOCUMENT = REPOSITORY / "docs/clients.md"
# What the document writes for the service, and what its parts that stand before it listen on.
SERVICE = "http://127.0.0.1:8000"
PROXY = "http://127.0.0.1:4000"
_BLOCK = re.compile(
    r"^<!-- run: (?P<client>[\w-]+)(?P<options>[^>]*?) -->\n"
    r"```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block with all that it needs to run."""

    client: str
    title: str
    text: str
    expect: str
    before: str
    language: str

    @property
    def key(self) -> str:
        """Another one as soon as the block, what it must print or its packages are others."""
        whole = (self.text, self.expect, self.before, *PINS[self.client])
        return hashlib.sha256("\0".join(whole).encode()).hexdigest()

    def script(self, service: str, proxy: str = PROXY) -> str:
        return self.text.replace(SERVICE, service).replace(PROXY, proxy)


def snippets(document: Path = DOCUMENT) -> Iterator[Snippet]:
    """In the order of the document."""
    text = document.read_text()
    setups: dict[str, str] = {}
    for found in _BLOCK.finditer(text):
        client, block = found["client"], found["text"]
        options = _options(found["options"])
        if "setup" in options:
            setups[client] = block
            continue
        yield Snippet(
            client,
            options.get("title") or _HEADING.findall(text[: found.start()])[-1],
            setups.get(client, "") + block,
            options.get("expect", ""),
            options.get("before", ""),
            found["language"],
        )


def _options(text: str) -> Mapping[str, str]:
    """`; name: value; name`"""
    parts = (part.partition(":") for part in text.split(";"))
    return {name.strip(): value.strip() for name, _, value in parts if name.strip()}
