"""What is written down of the streams that a fault met."""

from loadtest.studies.continuity.asks import asks
from loadtest.studies.continuity.results import Cut, figures, table
from loadtest.studies.continuity.streams import Ask, Stream
from serve_app.core.tiers import Tier

END = "data: [DONE]\n\n"


def stream(text: str, *, ends: bool = True, valid: bool = True) -> Stream:
    made = Stream(Ask("text", "/v1/chat/completions", {}, lambda _: valid), status=200)
    for number, letter in enumerate(text):
        made.feed(f'data: {{"choices": [{{"delta": {{"content": "{letter}"}}}}]}}\n\n', number)
    if ends:
        made.feed(END, len(text))
    return made


def test_a_cut_stream_a_different_one_and_one_that_breaks_its_promise_are_distinguished() -> None:
    unbroken = [stream("abc")]
    cuts = [
        Cut.of(stream("abc"), unbroken, 1, 0.5),
        Cut.of(stream("ab", ends=False), unbroken, 2, 0.5),
        Cut.of(stream("abd"), unbroken, 2, 0.5),
        Cut.of(stream("abc", valid=False), unbroken, 1, 0.5),
    ]
    found = figures(cuts, [3.0, 5.0])
    assert (found["streams"], found["cut"], found["differ"], found["invalid"]) == (4, 1, 1, 1)
    assert found["why_cut"] == ["text at 2: no last event"]
    assert found["how_different"] == ["text at 2: 0.content from character 2 on: 'd' for 'c'"]
    assert (found["faults"], found["gone_p50_s"], found["gone_max_s"]) == (2, 4.0, 5.0)
    # One lost its replica and was cut; none of the others did.
    assert (found["replayed"], found["silence_max_s"]) == (0, 0.0)


def test_silences_are_of_the_streams_that_went_on_elsewhere() -> None:
    unbroken = [stream("abc")]
    continued = stream("ab", ends=False)
    continued.feed('data: {"choices": [], "tierserve": {"replayed": 1}}\n\n', 7.0)
    continued.feed(END, 7.0)
    cuts = [Cut.of(stream("abc"), unbroken, 1, 0.5), Cut.of(continued, unbroken, 1, 0.5)]
    found = figures(cuts, [1.0])
    assert (found["streams"], found["replayed"]) == (2, 1)
    assert (found["silence_p50_s"], found["silence_max_s"]) == (6.0, 6.0)


def test_the_table_has_a_row_for_each_fault_and_says_how_it_was_measured() -> None:
    cut = Cut.of(stream("abc"), [stream("abc")], 1, 0.5)
    results = {
        "meta": {
            "date": "2026-01-02T03:04:05",
            "commit": "abc",
            "machine": {"cores": 2, "cpu": "X"},
            "model": "micro-r1",
            "streams_at_once": 8,
            "unbroken_runs": 3,
        },
        "control": {"streams": 8, "differ": 0},
        "faults": [{"fault": "replica", "replicas": 2, **figures([cut], [0.25])}],
    }
    header, _, row, _, caption = table(results).splitlines()
    assert row == (
        "| `kill -9` of a replica | 2 | 1 | 0 | 0 | 0 | 0 | 0.0 s | 0.0 s | 0.0 s | 0.2 s | 0.2 s |"
    )
    assert header.count("|") == row.count("|")
    for part in ("8 streams of `/v1`", "of 8 streams 0 were not the same", "2 cores of X", "abc"):
        assert part in caption


def test_requests_are_greedy_streamed_different_and_the_same_for_a_seed() -> None:
    made = asks(Tier.CHAT, 8, 0)
    assert made[0].body == asks(Tier.CHAT, 8, 0)[0].body != asks(Tier.CHAT, 8, 1)[0].body
    assert {ask.kind for ask in made} >= {"text", "budget", "json", "completions", "messages"}
    assert all(ask.body["stream"] and ask.body["temperature"] == 0 for ask in made)
    assert len({str(ask.body) for ask in made}) == 8


def test_an_answer_is_judged_by_its_kind() -> None:
    (json_ask,) = (ask for ask in asks(Tier.CHAT, 8, 0) if ask.kind == "json")
    (budget_ask,) = (ask for ask in asks(Tier.CHAT, 8, 0) if ask.kind == "budget")

    def answer(ask: Ask, content: str, tokens: int) -> bool:
        made = Stream(ask, status=200)
        made.feed(
            f'data: {{"choices": [{{"delta": {{"content": "{content}"}}}}], '
            f'"usage": {{"completion_tokens": {tokens}}}}}\n\n',
            0.0,
        )
        return ask.is_valid(made)

    assert answer(json_ask, '{\\"thing\\": 1}', 9)
    assert not answer(json_ask, '{\\"thing\\": 1', 9)
    assert answer(budget_ask, "x", 700)
    assert not answer(budget_ask, "x", 701)
