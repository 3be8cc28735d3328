"""Wherever the connection of a stream breaks, nothing of the stream is missing or there twice."""

from tests.api.relay_scene import DONE, GENERATION, a_scene, continues, cut_after
from tests.api.scripted_tier import Asked


async def test_wherever_a_stream_breaks_its_client_has_each_event_once_and_in_order() -> None:
    """Cut behind every byte: of the head, of HTTP's chunks, of steps and of events."""
    sizes = range(len(GENERATION.stream()))
    answers = [answer for size in sizes for answer in (cut_after(size), continues)]
    async with a_scene(*answers) as scene:
        for size in sizes:
            answer = await scene.post()
            assert (size, answer.content) == (size, GENERATION.text)
            first, *resumed = scene.tier.asked
            assert (first.journal, first.body) == (None, first.body)
            # Once [DONE] is there, nothing is left to be asked for.
            assert len(resumed) == (size < GENERATION.stream().index(DONE) + len(DONE))
            for asked in resumed:
                _fits(asked)
            scene.tier.answers = scene.tier.answers[2:]
            scene.tier.asked.clear()


def _fits(asked: Asked) -> None:
    """The journal is what the engine did for the events that the client has, and no step more."""
    steps, events = 0, 0
    while events < asked.dropped:
        events += len(GENERATION.events_of_steps[steps])
        steps += 1
    assert asked.journal is None or list(asked.journal) == GENERATION.steps(0, steps)
