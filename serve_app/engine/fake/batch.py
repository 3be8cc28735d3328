"""The fake engine's batch: sequences join and leave between steps, as in vLLM, and a step takes
the time that it takes on a GPU; only the arithmetic is left out."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.core.scaling.step_time import StepModel
from serve_app.engine.fake.prefix_cache import FakePrefixCache, PromptBlocks
from serve_app.engine.interface import EngineLoad

# vLLM's default of max_num_batched_tokens for a server.
PROMPT_TOKENS_PER_STEP = 2048
# A loop that is late runs its steps without a pause until it has caught up; what a machine that
# stood still has missed beyond this is left out.
CATCH_UP_S = 1.0


@dataclass(slots=True, eq=False)
class FakeSequence:
    """`to_read` are the tokens that are still to be read before it decodes, of the prompt and of
    what it had made when it lost its place in the KV pool; `pool_tokens` those it has there.
    `past_tokens` were made elsewhere."""

    prompt_tokens: int
    reply_tokens: int
    changed: asyncio.Event
    past_tokens: int = 0
    to_read: int = field(init=False)
    pool_tokens: int = 0
    made_tokens: int = field(init=False)
    reported_tokens: int = field(init=False)
    disconnected: bool = False
    # Its time was over before its end.
    cut: bool = False
    # Called with its first token.
    on_first_token: Callable[[], None] = lambda: None
    # None: nothing is looked for in the prefix cache.
    blocks: PromptBlocks | None = None
    looked_for: bool = False

    def __post_init__(self) -> None:
        self.made_tokens = self.reported_tokens = self.past_tokens
        self.to_read = self.prompt_tokens + self.past_tokens

    @property
    def finished(self) -> bool:
        return self.disconnected or self.made_tokens >= self.reply_tokens

    @property
    def is_read(self) -> bool:
        """Whether it has got a token here, or needs none."""
        return self.finished or self.made_tokens > self.past_tokens

    def add_token(self, stream_interval: int) -> None:
        """Its reader hears of the first one, of the last one, and of each `stream_interval`."""
        self.made_tokens += 1
        self.pool_tokens += 1
        if self.made_tokens == self.past_tokens + 1:
            self.on_first_token()
        if self.reported_tokens in (0, self.made_tokens - stream_interval) or self.finished:
            self.reported_tokens = self.made_tokens
            self.changed.set()

    def leave_pool(self) -> None:
        """All its tokens are to be read again."""
        self.to_read = self.prompt_tokens + self.made_tokens
        self.pool_tokens = 0


@dataclass(slots=True)
class FakeReply:
    """The sequences of one request. The tokens of a reader that is late come together."""

    sequences: Sequence[FakeSequence]
    changed: asyncio.Event

    async def parts(self) -> AsyncIterator[tuple[int, int, int]]:
        """(sequence, its tokens sent before, its tokens sent now) until all have ended. Those that
        were made elsewhere are sent."""
        sent = [sequence.past_tokens for sequence in self.sequences]
        while True:
            ended = all(sequence.finished for sequence in self.sequences)
            for index, sequence in enumerate(self.sequences):
                if sequence.reported_tokens > sent[index]:
                    now = sequence.reported_tokens
                    yield index, sent[index], now
                    sent[index] = now
            if ended:
                return
            await self.changed.wait()
            self.changed.clear()

    def cut(self) -> None:
        """Whatever has not ended ends with what it has, or its first token."""
        for sequence in self.sequences:
            if not sequence.finished:
                sequence.cut, sequence.reply_tokens = True, max(1, sequence.made_tokens)
                sequence.reported_tokens = sequence.made_tokens
        self.changed.set()

    @property
    def disconnected(self) -> bool:
        return any(sequence.disconnected for sequence in self.sequences)

    def end(self) -> None:
        """Whatever has not ended leaves the batch."""
        for sequence in self.sequences:
            sequence.disconnected = sequence.disconnected or not sequence.finished
        self.changed.set()


@dataclass(frozen=True, slots=True)
class _Step:
    """`decoding` get a token, and so do `ending`, whose prompts are read by its end."""

    decoding: Sequence[FakeSequence]
    ending: Sequence[FakeSequence]
    context_tokens: int
    prompt_tokens: int


@dataclass(slots=True)
class FakeBatch:
    """`load` is kept as an engine reports it. `per_context_token_ms` is what a step takes for each
    token in the contexts of those that decode; a step has `step_tokens` at most."""

    step_model: StepModel
    max_sequences: int
    kv_tokens: int
    load: EngineLoad
    per_context_token_ms: float = 0.0
    step_tokens: int = PROMPT_TOKENS_PER_STEP
    stream_interval: int = 1
    prefix_cache: FakePrefixCache = field(
        default_factory=lambda: FakePrefixCache.of(0, enabled=False)
    )
    _waiting: deque[FakeSequence] = field(default_factory=deque[FakeSequence])
    _running: list[FakeSequence] = field(default_factory=list[FakeSequence])
    _added: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def reply(
        self,
        prompt_tokens: int,
        reply_tokens: Sequence[int],
        on_first_tokens: Callable[[], None] = lambda: None,
        past_tokens: Sequence[int] | None = None,
        blocks: PromptBlocks | None = None,
    ) -> Iterator[FakeReply]:
        """A sequence for each of `reply_tokens`, all after the same prompt. They leave the batch
        with the block. `on_first_tokens` is called once all of them have one. `past_tokens` of each
        were made elsewhere, and are read like the prompt. `blocks` are the prompt's, as the prefix
        cache has them."""
        changed = asyncio.Event()
        sequences = [
            FakeSequence(prompt_tokens, tokens, changed, past, blocks=blocks)
            for tokens, past in zip(
                reply_tokens, past_tokens or [0] * len(reply_tokens), strict=True
            )
        ]

        def look() -> None:
            if all(sequence.is_read for sequence in sequences):
                on_first_tokens()

        for sequence in sequences:
            sequence.on_first_token = look
        if all(sequence.finished for sequence in sequences):
            on_first_tokens()
        self._waiting.extend(sequence for sequence in sequences if not sequence.finished)
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
            step = self._next_step()
            took_ms = self._takes_ms(step)
            due_s = max(due_s + took_ms / 1e3, clock_s() - CATCH_UP_S)
            await asyncio.sleep(max(0.0, due_s - clock_s()))
            if self.load.watch is not None and followed:
                self.load.watch.step(
                    took_ms=took_ms,
                    sequences=len(step.decoding),
                    prompt_tokens=step.prompt_tokens,
                )
            followed = True
            self._end_step(step)
            self.load.reported_s = clock_s()

    def _takes_ms(self, step: _Step) -> float:
        read_ms = self.per_context_token_ms * step.context_tokens
        return self.step_model.step_ms(len(step.decoding), step.prompt_tokens) + read_ms

    def _admit(self) -> None:
        """As vLLM: who waits gets a place once its prompt fits into the KV pool; where the next
        tokens do not, the newest ones lose theirs."""
        self._running = [sequence for sequence in self._running if not sequence.finished]
        held = sum(sequence.pool_tokens + sequence.to_read for sequence in self._running)
        while len(self._running) > 1 and held + len(self._running) > self.kv_tokens:
            newest = self._running.pop()
            held -= newest.pool_tokens + newest.to_read
            newest.leave_pool()
            self._waiting.appendleft(newest)
        while self._waiting and len(self._running) < self.max_sequences:
            sequence = self._waiting[0]
            if not sequence.disconnected:
                self._find(sequence)
                needed = sequence.pool_tokens + sequence.to_read
                if held and held + len(self._running) + needed >= self.kv_tokens:
                    break
                held += sequence.pool_tokens + sequence.to_read
                self._running.append(sequence)
            self._waiting.popleft()
        self.load.running = len(self._running)
        self.load.waiting = sum(not sequence.disconnected for sequence in self._waiting)
        used = sum(sequence.pool_tokens for sequence in self._running)
        self.load.kv_cache_usage = min(1.0, used / self.kv_tokens)

    def _find(self, sequence: FakeSequence) -> None:
        """What the prefix cache has of a prompt that comes new is not read."""
        if sequence.blocks is None or sequence.looked_for:
            return
        sequence.looked_for = True
        found = self.prefix_cache.found_tokens(sequence.blocks)
        sequence.to_read -= found
        sequence.pool_tokens += found
        self.load.prefix_queries += sequence.prompt_tokens
        self.load.prefix_hits += found

    def _next_step(self) -> _Step:
        """A token for each that decodes; what is left of the step reads prompts, in order."""
        decoding = [sequence for sequence in self._running if not sequence.to_read]
        context_tokens = sum(sequence.pool_tokens for sequence in decoding)
        budget = room = max(0, self.step_tokens - len(decoding))
        ending: list[FakeSequence] = []
        for sequence in self._running:
            if not room:
                break
            if not sequence.to_read:
                continue
            taken = min(sequence.to_read, room)
            sequence.to_read -= taken
            sequence.pool_tokens += taken
            room -= taken
            if not sequence.to_read:
                ending.append(sequence)
                if sequence.blocks is not None:
                    self.prefix_cache.keep(sequence.blocks)
        return _Step(decoding, ending, context_tokens, budget - room)

    def _end_step(self, step: _Step) -> None:
        for sequence in (*step.decoding, *step.ending):
            if sequence.disconnected:
                continue
            sequence.add_token(self.stream_interval)
            self.load.output_tokens += 1
            if self.load.watch is not None and sequence.finished:
                self.load.watch.finished(
                    prompt_tokens=sequence.prompt_tokens, new_tokens=sequence.made_tokens
                )
