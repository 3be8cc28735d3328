"""A conversation's next turn runs at the replica that has read the ones before."""

from serve_app.core.tiers import Tier
from tests.e2e.site import Site, wait_for

# About 1,500 tokens.
FACTS = " ".join(f"The square of {number} is {number * number}." for number in range(130))


def test_a_conversation_goes_on_where_its_prefix_is(site: Site) -> None:
    """Each turn is a connection of its own, so that HAProxy has them in at either replica."""

    def heard() -> bool:
        reports = [replica["prefixes"] for replica in site.tier(Tier.CHAT)["replicas"]]
        return [report["replicas_heard"] for report in reports] == [1, 1]

    wait_for(heard, "each replica has heard of the other", 60)
    before = site.metrics_now().value("tierserve_prefix_choices_total", reason="found")
    messages = [{"role": "user", "content": FACTS}]

    def found_again() -> bool:
        answer = site.post("/api/chat", {"messages": messages, "max_tokens": 4})
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["message"]["content"] or ""
        messages.append({"role": "assistant", "content": text})
        messages.append({"role": "user", "content": "And then?"})
        choices = site.metrics_now().value("tierserve_prefix_choices_total", reason="found")
        return choices > before

    wait_for(found_again, "a turn was forwarded for its prefix", 60)
    assert site.metrics_now().value("tierserve_prefix_saved_tokens_total", tier="chat") > 500
    found = sum(
        replica["prefix_cache"]["found_tokens"] for replica in site.tier(Tier.CHAT)["replicas"]
    )
    assert found > 500


def test_nobody_else_reports(site: Site) -> None:
    forged = {"x-tierserve-report": "0" * 64}
    assert site.post("/api/chat/internal/prefixes", {"version": 1}, **forged).status_code == 404
    assert site.post("/api/chat/internal/prefixes", {"version": 1}).status_code == 404
