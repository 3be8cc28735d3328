"""A conversation counts once, however many turns it has, and for a while after the last one."""

from serve_app.core.prefix.live_conversations import (
    LEAST_LIVE_S,
    MOST_LIVE_S,
    LiveConversations,
)


def test_a_turn_more_is_no_conversation_more() -> None:
    live = LiveConversations()
    live.turn([b"a", b"ab"], 0.0)
    live.turn([b"x"], 1.0)
    live.turn([b"a", b"ab", b"abc"], 2.0)
    assert live.count(2.0) == 2


def test_one_without_a_turn_for_long_is_over() -> None:
    live = LiveConversations()
    live.turn([b"a"], 0.0)
    live.turn([b"x"], 1.0)
    live.turn([b"a", b"ab"], 20.0)
    assert live.count(20.0) == 2
    assert live.count(20.0 + live.live_s) == 1
    assert live.count(20.1 + live.live_s) == 0


def test_how_long_one_counts_is_learnt_from_the_gaps_between_turns() -> None:
    for gap_s, expected_s in ((2.0, 6.0), (0.1, LEAST_LIVE_S), (1000.0, MOST_LIVE_S)):
        live, prompt = LiveConversations(), [b"0"]
        for number in range(200):
            live.turn(prompt, number * gap_s)
            prompt = [*prompt, b"%d" % number]
        assert abs(live.live_s - expected_s) < 0.1
        assert live.count(199 * gap_s) == 1


def test_nothing_is_no_conversation() -> None:
    live = LiveConversations()
    live.turn([], 0.0)
    assert live.count(0.0) == 0
