"""vLLM's ids in events, in a request and outside of one; tests/engine/vllm/test_replay.py has the
events of real vLLM."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from serve_app.engine.event_ids import EVENT_IDS, EventIds
from serve_app.engine.vllm.patches.event_ids import of_the_request, uuids_of_the_request


@contextmanager
def a_request(request_id: bytes) -> Iterator[None]:
    token = EVENT_IDS.set(EventIds(request_id))
    try:
        yield
    finally:
        EVENT_IDS.reset(token)


def test_an_id_of_a_request_has_the_form_of_vllms() -> None:
    made = of_the_request(lambda: "random")
    with a_request(b"a"):
        first, second = made(), made()
    assert first != second
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in (first, second))
    with a_request(b"a"):
        assert [made(), made()] == [first, second]
    assert made() == "random"


def test_a_uuid_of_a_request_is_one_of_version_4() -> None:
    module = uuids_of_the_request(SimpleNamespace(uuid4=uuid.uuid4))
    with a_request(b"a"):
        first = module.uuid4()
    assert first.version == 4
    with a_request(b"a"):
        assert module.uuid4() == first
    assert module.uuid4() != module.uuid4()
