"""A client comes back to its stream at either replica, whichever HAProxy selects."""

from serve_app.core.tiers import Tier
from tests.e2e.client import work
from tests.e2e.site import Site

RESUMABLE = {"x-tierserve-resumable": "1"}
TOKENS = 60
COMES_BACK = 8


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


def resumed(site: Site) -> float:
    name = "tierserve_kept_streams_total"
    return site.metrics_now().value(name, tier=Tier.CHAT, result="resumed")
