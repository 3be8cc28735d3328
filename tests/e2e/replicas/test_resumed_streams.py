"""A client comes back to its stream at either replica, whichever HAProxy selects."""

import httpx
import psutil

from serve_app.api.kept_stream import MOVED
from serve_app.core.tiers import Tier
from tests.e2e.client import work
from tests.e2e.main.test_cancel import content_of
from tests.e2e.replicas.faults import kill
from tests.e2e.site import Site, wait_for

RESUMABLE = {"x-tierserve-resumable": "1"}
TOKENS = 60
COMES_BACK = 8
# Long enough that the engine is killed on the way.
LONG_TOKENS = 1500
FOUND_WITHIN_S = 60.0


def test_whichever_replica_is_asked_the_client_gets_its_stream(site: Site) -> None:
    before = resumed(site)
    body = work("Count to a thousand.", TOKENS, stream=True)
    begun = [site.http.post("/api/chat", json=body, headers=RESUMABLE) for _ in range(4)]
    replicas = {replica["replica"] for replica in site.tier(Tier.CHAT)["replicas"]}
    for answer in begun:
        stream_id = answer.headers["x-tierserve-stream-id"]
        assert stream_id.rpartition("-")[0] in replicas
        assert answer.text.startswith("id: 1\n")
        assert answer.text.endswith("data: [DONE]\n\n")
        for _ in range(COMES_BACK):
            again = site.http.get(f"/api/chat/streams/{stream_id}")
            assert (again.status_code, again.text) == (200, answer.text)
            assert again.headers["x-tierserve-stream-id"] == stream_id
    assert resumed(site) == before + len(begun) * COMES_BACK


def test_a_stream_of_a_replica_that_is_not_there_is_refused_with_what_to_do(site: Site) -> None:
    answer = site.http.get(f"/api/chat/streams/gone-{'0' * 32}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "stream_not_found")
    assert "Send the request again" in error["message"]


def test_a_stream_whose_engine_is_killed_goes_on_at_the_other_replica(site: Site) -> None:
    body = work("to be continued", LONG_TOKENS, stream=True)
    unbroken = site.post("/api/chat", body).text
    with site.http.stream("POST", "/api/chat", json=body, headers=RESUMABLE) as answer:
        stream_id, text = answer.headers["x-tierserve-stream-id"], ""
        engine = engine_of(site, stream_id)
        for part in answer.iter_text():
            text += part
            if text.count("\n\nid: ") >= 20 and engine.is_running():
                kill(engine)
    events = [event for event in text.split("\n\n")[:-1] if event.startswith("id: ")]
    assert 20 < len(events) < LONG_TOKENS
    assert text.endswith(MOVED.decode())
    rest: list[httpx.Response] = []

    def is_there() -> bool:
        last = {"last-event-id": str(len(events))}
        rest.append(site.http.get(f"/api/chat/streams/{stream_id}", headers=last))
        return rest[-1].status_code == 200

    wait_for(is_there, "the stream is got back", FOUND_WITHIN_S)
    events += rest[-1].text.split("\n\n")[:-1]
    assert [event.partition("\n")[0] for event in events] == [
        f"id: {number}" for number in range(1, len(events) + 1)
    ]
    assert events[-1].endswith("data: [DONE]")
    assert content_of("\n\n".join(events)) == content_of(unbroken)
    left = site.metrics_now().value("tierserve_resumed_streams_total", tier=Tier.CHAT)
    assert left >= 1


def engine_of(site: Site, stream_id: str) -> psutil.Process:
    """Of the replica that a stream's id names."""
    name = stream_id.rpartition("-")[0]
    (pid,) = (
        replica["pid"] for replica in site.tier(Tier.CHAT)["replicas"] if replica["replica"] == name
    )
    children = psutil.Process(pid).children(recursive=True)
    (engine,) = (
        each for each in children if each.cmdline() and each.cmdline()[0].startswith("VLLM::Engine")
    )
    return engine


def resumed(site: Site) -> float:
    name = "tierserve_kept_streams_total"
    return site.metrics_now().value(name, tier=Tier.CHAT, result="resumed")
