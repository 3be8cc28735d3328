"""The fake engine's batch: sequences join and leave between steps, as in vLLM, and a step takes
the time that it takes on a card; only the arithmetic is left out."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.core.step_time import StepModel
from serve_app.engine.engine import EngineLoad

# vLLM's default of max_num_batched_tokens for a server.
PROMPT_TOKENS_PER_STEP = 2048
# A loop that is late runs its steps without a pause until it has caught up; what a machine that
# stood still has missed beyond this is left out.
CATCH_UP_S = 1.0


@dataclass(slots=True, eq=False)
class FakeSequence:
    prompt_tokens: int
    reply_tokens: int
    changed: asyncio.Event
    prefilled_tokens: int = 0
    made_tokens: int = 0
    gone: bool = False

    @property
    def finished(self) -> bool:
        return self.gone or self.made_tokens == self.reply_tokens


@dataclass(slots=True)
class FakeReply:
    """The sequences of one request. The tokens of a reader that is late come together."""

    sequences: Sequence[FakeSequence]
    changed: asyncio.Event

    async def parts(self) -> AsyncIterator[tuple[int, int, int]]:
        """(sequence, its tokens told before, its tokens told now) until all have ended."""
        told = [0] * len(self.sequences)
        while True:
            ended = all(sequence.finished for sequence in self.sequences)
            for index, sequence in enumerate(self.sequences):
                if sequence.made_tokens > told[index]:
                    yield index, told[index], sequence.made_tokens
                    told[index] = sequence.made_tokens
            if ended:
                return
            await self.changed.wait()
            self.changed.clear()

    @property
    def gone(self) -> bool:
        return any(sequence.gone for sequence in self.sequences)

    def end(self) -> None:
        """Whatever has not ended leaves the batch."""
        for sequence in self.sequences:
            sequence.gone = sequence.gone or not sequence.finished
        self.changed.set()


@dataclass(slots=True)
class FakeBatch:
    """`load` is kept as an engine reports it."""

    step_model: StepModel
    max_sequences: int
    kv_tokens: int
    load: EngineLoad
    _waiting: deque[FakeSequence] = field(default_factory=deque[FakeSequence])
    _running: list[FakeSequence] = field(default_factory=list[FakeSequence])
    _added: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def reply(self, prompt_tokens: int, reply_tokens: Sequence[int]) -> Iterator[FakeReply]:
        """A sequence for each of `reply_tokens`, all after the same prompt. They leave the batch
        with the block."""
        changed = asyncio.Event()
        sequences = [FakeSequence(prompt_tokens, tokens, changed) for tokens in reply_tokens]
        self._waiting.extend(sequences)
        self._added.set()
        reply = FakeReply(sequences, changed)
        try:
            yield reply
        finally:
            reply.end()

    async def run(self) -> None:
        """Step for as long as there is anything to do; for ever."""
        clock_s = asyncio.get_running_loop().time
        due_s = clock_s()
        followed = False
        while True:
            self._admit()
            if not self._running:
                self._added.clear()
                await self._added.wait()
                due_s = clock_s()
                followed = False
                continue
            getting_a_token, prompt_tokens = self._prefill()
            took_ms = self.step_model.step_ms(len(getting_a_token), prompt_tokens)
            due_s = max(due_s + took_ms / 1e3, clock_s() - CATCH_UP_S)
            await asyncio.sleep(max(0.0, due_s - clock_s()))
            if self.load.watch is not None and followed:
                self.load.watch.step(
                    took_ms=took_ms, sequences=len(getting_a_token), prompt_tokens=prompt_tokens
                )
            followed = True
            self._decode(getting_a_token)
            self.load.reported_s = clock_s()

    def _admit(self) -> None:
        self._running = [sequence for sequence in self._running if not sequence.finished]
        while self._waiting and len(self._running) < self.max_sequences:
            sequence = self._waiting.popleft()
            if not sequence.gone:
                self._running.append(sequence)
        held = sum(sequence.prefilled_tokens + sequence.made_tokens for sequence in self._running)
        self.load.running = len(self._running)
        self.load.waiting = sum(not sequence.gone for sequence in self._waiting)
        self.load.kv_cache_usage = min(1.0, held / self.kv_tokens)

    def _prefill(self) -> tuple[list[FakeSequence], int]:
        """Whose prompts are read by the end of this step, and how many tokens it reads."""
        budget = PROMPT_TOKENS_PER_STEP
        ready: list[FakeSequence] = []
        for sequence in self._running:
            left = sequence.prompt_tokens - sequence.prefilled_tokens
            taken = min(left, budget)
            sequence.prefilled_tokens += taken
            budget -= taken
            if taken == left:
                ready.append(sequence)
        return ready, PROMPT_TOKENS_PER_STEP - budget

    def _decode(self, sequences: Sequence[FakeSequence]) -> None:
        for sequence in sequences:
            if not sequence.gone:
                sequence.made_tokens += 1
                self.load.output_tokens += 1
                sequence.changed.set()
                if self.load.watch is not None and sequence.finished:
                    self.load.watch.finished(
                        prompt_tokens=sequence.prompt_tokens, new_tokens=sequence.made_tokens
                    )
