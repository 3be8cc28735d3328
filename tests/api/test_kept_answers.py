"""Each replica's last answer, with its age."""

from serve_app.api.status import Kept, KeptAnswers


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_what_came_before_the_question_is_stale_and_says_how_old_it_is() -> None:
    clock = Clock()
    kept = KeptAnswers[str](30.0, clock)
    kept.take("b", "old")
    clock.now_s = 110.0
    kept.take("a", "new")
    clock.now_s = 111.0
    assert kept.since(110.0) == [Kept("new", 1.0, False), Kept("old", 11.0, True)]


def test_nothing_is_kept_for_ever_nor_of_a_replica_that_has_ended() -> None:
    clock = Clock()
    kept = KeptAnswers[str](30.0, clock)
    for replica in "abc":
        kept.take(replica, replica)
    kept.keep_only(["a", "b"])
    kept.forget("b")
    assert [each.value for each in kept.since(0.0)] == ["a"]
    clock.now_s = 131.0
    assert kept.since(0.0) == []
