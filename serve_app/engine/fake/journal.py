"""The journal of a fake answer, whose ids are the numbers of its tokens."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from serve_app.core.replay.journal import EngineStep, Journal
from serve_app.engine.fake.batch import FakeReply


@dataclass(frozen=True, slots=True)
class FakeJournal:
    """All sequences of a request are those of one call. `journal` is None where nobody follows."""

    journal: Journal | None

    def past_tokens(self, sequences: int) -> list[int]:
        """Of each sequence, so many were made elsewhere."""
        past = [0] * sequences
        for step in self._past():
            past[step.index] += len(step.token_ids)
        return past

    async def parts(self, reply: FakeReply) -> AsyncIterator[tuple[int, int, int, bool]]:
        """Those of the past as they were, then the reply's own: (sequence, its tokens before, its
        tokens now, whether it is past)."""
        sent = [0] * len(reply.sequences)
        for step in self._past():
            first, sent[step.index] = sent[step.index], sent[step.index] + len(step.token_ids)
            yield step.index, first, sent[step.index], True
        async for index, first, last in reply.parts():
            yield index, first, last, False

    def record(self, index: int, first: int, last: int, finish_reason: str | None) -> None:
        if self.journal is not None:
            ids = tuple(range(first, last))
            self.journal.record(EngineStep(0, index, ids, finish_reason))

    def _past(self) -> tuple[EngineStep, ...]:
        return () if self.journal is None else self.journal.past
