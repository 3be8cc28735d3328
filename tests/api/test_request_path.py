"""How many files a request walks through, from the edge's entry to the engine's call.

Counted by a profiler: each file of serve_app in which a function is called, or a generator or
coroutine goes on. A plain streamed request stands for most; each feature that one uses (tools, a
cache, another server's fields) adds its own file.
"""

import sys
from pathlib import Path
from types import FrameType

import pytest
from starlette.types import Receive, Scope, Send

import serve_app
from serve_app.api.field_rules import FieldBounds
from serve_app.core.structure.schema_limits import SchemaLimits
from tests.api.asgi import FakeEngine, call, streams
from tests.builders import a_gate, a_reading_gate, an_edge

ROOT = Path(serve_app.__file__).parent
MOST_FILES = 13
# A replica's gate measures its engine: how far it is with its prompts, and what is asked of it.
MOST_FILES_MEASURED = 18
PLAIN = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


class Walk(FakeEngine):
    """An engine in front of which the files are counted."""

    def __init__(self) -> None:
        super().__init__(streams(b"data: [DONE]\n\n"))
        self.files: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sys.setprofile(None)
        await super().__call__(scope, receive, send)

    def __enter__(self) -> "Walk":
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(ROOT):
            self.files.append(file.relative_to(ROOT).as_posix())


@pytest.mark.skipif(sys.getprofile() is not None, reason="another profiler counts")
@pytest.mark.parametrize("measured", [False, True])
async def test_a_plain_request_walks_through_few_files(measured: bool) -> None:
    engine = Walk()
    edge = an_edge(engine, gate=a_reading_gate() if measured else a_gate())
    edge.reader.bounds = FieldBounds(context_tokens=4096, prompt_chars=100_000)
    edge.reader.schema_limits = SchemaLimits(4096, 32, 1000)
    await call(edge, payload=PLAIN)  # the first one writes the book of rules
    with engine:
        made = await call(edge, payload=PLAIN)
    assert made.status == 200
    assert "api/gate.py" in engine.files
    most = MOST_FILES_MEASURED if measured else MOST_FILES
    assert len(set(engine.files)) <= most, sorted(set(engine.files))
