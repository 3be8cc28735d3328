"""The replica's side of the grammar sandbox: what clients ask to be bound to is compiled first in
another process, under limits, and only what passed there reaches vLLM.

A crash of xgrammar, a compile without end, or one that fills the memory then costs a forked child
of that process, and the client gets a 400 that says which limit was met.
"""

import asyncio
import hashlib
import logging
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from cachetools import LRUCache

from serve_app.config.structure import StructureConfig
from serve_app.engine.grammar.closing import Closed
from serve_app.engine.grammar.compiler import GrammarSpec, Job, JobLimits
from serve_app.engine.grammar.worker import Frames, frame
from serve_app.errors import RequestError, invalid

log = logging.getLogger(__name__)

MIB = 1024 * 1024
# A child is niced, and the engine may have both cores: it waits longer than it computes.
WALL_FACTOR = 8.0
# Beyond a child's own limits, before the other process is given up.
GRACE_S = 5.0
# Of the closing of an answer, whose grammar has passed: its tokens are walked through again.
CLOSING_FACTOR = 3.0
RETRY_AFTER_S = 2
TRIES = 3
# What the other process sees of this one's environment. A client's text is read there by code in
# C++, so it has no keys.
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "HOME", "TMPDIR")
# A key, a verdict, and what holds them.
VERDICT_BYTES = 600

# By what the other process says: the error's code, and a sentence with the limit.
_REFUSALS = {
    "time": (
        "structure_too_slow",
        "It takes more than {cpu_s:g} s to compile, which is the limit.",
    ),
    "memory": (
        "structure_too_much_memory",
        "It takes more than {memory_mib} MiB of memory to compile, which is the limit.",
    ),
    "depth": ("structure_too_deep", "It nests too deeply to be compiled."),
    "compiled": (
        "structure_too_large",
        "Compiled it takes more than {compiled_mib} MiB, which is the limit.",
    ),
    "slow": (
        "structure_too_slow",
        "It takes more than {step_ms:g} ms for each token of an answer, which is the limit.",
    ),
    "empty": ("structure_empty", "An answer can come to where nothing satisfies it."),
}


class StructureRefusedError(Exception):
    """A structure that is not compiled for a client, and why. The field is known to the caller."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    def as_request_error(self, field: str) -> RequestError:
        return invalid(f"`{field}` is refused. {self.message}", param=field, code=self.code)


class WorkerDiedError(Exception):
    """The other process has ended."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`code` is None where the grammar passed. `shortest_tokens` is None where its shortest answer
    is longer than what is looked at, `closing_tokens` the longest end that was met."""

    shortest_tokens: int | None = None
    closing_tokens: int = 0
    code: str | None = None
    message: str = ""


@dataclass(slots=True)
class SandboxCounts:
    """Since the start. `refused` by the error's code."""

    passed: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    cache_hits: int = 0
    shared: int = 0
    busy: int = 0
    restarts: int = 0


@dataclass(slots=True)
class _Check:
    """One grammar that is being compiled, for all who wait for it."""

    task: asyncio.Task[Verdict]
    waiting: int = 0


class GrammarSandbox:
    """`vocabulary` is xgrammar's TokenizerInfo, serialized."""

    def __init__(self, vocabulary: str, config: StructureConfig | None = None) -> None:
        self._config = config or StructureConfig()
        self._vocabulary = vocabulary
        self._verdicts: LRUCache[bytes, Verdict] = LRUCache(
            self._config.cache_mib * MIB, getsizeof=lambda verdict: VERDICT_BYTES
        )
        self._checks: dict[bytes, _Check] = {}
        self._checkers = asyncio.Semaphore(self._config.workers)
        # Those who close have waited already: no new schema is in front of them.
        self._closers = asyncio.Semaphore(self._config.workers)
        self._waiting = 0
        self._numbers = 0
        self._worker: _Worker | None = None
        self.counts = SandboxCounts()

    def start(self) -> None:
        """Start the other process, which is ready a moment later."""
        self._running_worker()

    def stop(self) -> None:
        """End the other process, and with it all that it compiles."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    @property
    def worker_pid(self) -> int | None:
        """None before the start."""
        return None if self._worker is None else self._worker.pid

    async def check(self, spec: GrammarSpec) -> Verdict:
        """The verdict on a grammar that has passed. Raises StructureRefusedError, or RequestError
        503 where too many wait."""
        key = _key_of(spec)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = await self._checked(key, spec)
        else:
            self.counts.cache_hits += 1
        if verdict.code is not None:
            self.counts.refused[verdict.code] += 1
            raise StructureRefusedError(verdict.code, verdict.message)
        self.counts.passed += 1
        return verdict

    async def close(
        self, spec: GrammarSpec, answer: Sequence[int], *, least_kept: int, most_tokens: int
    ) -> Closed | None:
        """How `answer` is ended within `most_tokens` in all, of which `least_kept` cannot be taken
        back; None where it cannot within the limits."""
        limits = self._limits(CLOSING_FACTOR)
        with suppress(RequestError):
            async with self._slot(self._closers):
                said = await self._ask(
                    spec,
                    limits,
                    answer=list(answer),
                    least_kept=least_kept,
                    most_tokens=most_tokens,
                )
                closed = said.get("closing")
                return None if closed is None else Closed(**closed)
        return None

    async def _checked(self, key: bytes, spec: GrammarSpec) -> Verdict:
        """One compile for all who ask for the same; ended when the last of them leaves."""
        check = self._checks.get(key)
        if check is None:
            check = self._checks[key] = _Check(asyncio.create_task(self._check(key, spec)))
        else:
            self.counts.shared += 1
        check.waiting += 1
        try:
            return await asyncio.shield(check.task)
        finally:
            check.waiting -= 1
            if check.waiting == 0:
                check.task.cancel()
            # Who comes now finds the verdict, or begins anew.
            if (check.task.done() or check.waiting == 0) and self._checks.get(key) is check:
                del self._checks[key]

    async def _check(self, key: bytes, spec: GrammarSpec) -> Verdict:
        limits = self._limits()
        async with self._slot(self._checkers):
            said = await self._ask(spec, limits)
        if said.get("limit") == "wall":
            # It had no core: which says nothing of the grammar.
            raise self._busy()
        verdict = _verdict_of(said, limits)
        self._verdicts[key] = verdict
        if verdict.code is not None:
            log.info(
                "structure refused",
                extra={"phase": "structure", "reason": verdict.code, "bytes": len(spec.text)},
            )
        return verdict

    async def _ask(
        self,
        spec: GrammarSpec,
        limits: JobLimits,
        **closing: Any,
    ) -> dict[str, Any]:
        for _ in range(TRIES):
            self._numbers += 1
            job = Job(self._numbers, spec.kind, spec.text, limits, **closing)
            with suppress(WorkerDiedError):
                return await self._running_worker().ask(job)
        raise self._busy()

    def _running_worker(self) -> "_Worker":
        if self._worker is None or self._worker.dead:
            if self._worker is not None:
                self.counts.restarts += 1
                log.warning("grammar worker ended; starting another", extra={"phase": "structure"})
            self._worker = _Worker(self._vocabulary)
        return self._worker

    @asynccontextmanager
    async def _slot(self, slots: asyncio.Semaphore) -> AsyncIterator[None]:
        """Raises RequestError 503 where that takes too long."""
        if slots.locked() and self._waiting >= self._config.max_waiting:
            raise self._busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._config.max_wait_s):
                await slots.acquire()
        except TimeoutError:
            raise self._busy() from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            slots.release()

    def _limits(self, factor: float = 1.0) -> JobLimits:
        config = self._config
        cpu_s = config.compile_timeout_s * factor
        return JobLimits(
            cpu_s=cpu_s,
            wall_s=cpu_s * WALL_FACTOR,
            memory_bytes=config.compile_memory_mib * MIB,
            compiled_bytes=config.max_compiled_mib * MIB,
            step_s=config.max_step_ms / 1000,
        )

    def _busy(self) -> RequestError:
        self.counts.busy += 1
        return RequestError(
            503,
            f"Too many new schemas wait to be compiled. Come back in {RETRY_AFTER_S} s.",
            code="structures_busy",
            retry_after_s=RETRY_AFTER_S,
        )


class _Worker:
    """The other process, and what it was asked. Belongs to the event loop that made it."""

    def __init__(self, vocabulary: str) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(  # noqa: S603  (this interpreter, our module)
                [sys.executable, "-m", "serve_app.engine.grammar.worker", str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
            )
        ours.setblocking(False)
        self._socket = ours
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue()
        self._unsent.put_nowait(frame({"vocabulary": vocabulary}))
        self.dead = False
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        # The event loop must have let go of it first.
        both = asyncio.gather(*self._tasks, return_exceptions=True)
        both.add_done_callback(lambda _: ours.close())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, job: Job) -> dict[str, Any]:
        """What it says of a job; cancelled, the job is ended. Raises WorkerDiedError."""
        if self.dead:
            raise WorkerDiedError
        answered = self._asked[job.number] = asyncio.get_running_loop().create_future()
        self._unsent.put_nowait(frame(asdict(job)))
        try:
            async with asyncio.timeout(job.limits.wall_s + GRACE_S):
                return await answered
        except TimeoutError:
            self.kill()
            raise WorkerDiedError from None
        except asyncio.CancelledError:
            self._unsent.put_nowait(frame({"cancel": job.number}))
            raise
        finally:
            self._asked.pop(job.number, None)

    def kill(self) -> None:
        """Its children die with it."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._end()

    async def _read(self) -> None:
        loop, frames = asyncio.get_running_loop(), Frames()
        with suppress(OSError):
            while read := await loop.sock_recv(self._socket, 1 << 16):
                for message in frames.add(read):
                    answered = self._asked.get(message["number"])
                    if answered is not None and not answered.done():
                        answered.set_result(message)
        self._end()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while True:
                await loop.sock_sendall(self._socket, await self._unsent.get())

    def _end(self) -> None:
        if self.dead:
            return
        self.dead = True
        for answered in self._asked.values():
            if not answered.done():
                answered.set_exception(WorkerDiedError())
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        with suppress(ProcessLookupError):
            self._process.kill()
        # It has been killed, or has closed its socket as the last thing that it does.
        self._process.wait()


def _verdict_of(said: dict[str, Any], limits: JobLimits) -> Verdict:
    limit = said.get("limit")
    if limit is None:
        return Verdict(said["shortest_tokens"], said["closing_tokens"])
    if limit == "invalid":
        detail = f"It cannot be compiled: {said['detail']}"
        return Verdict(code="structure_invalid", message=detail)
    code, sentence = _REFUSALS[limit]
    message = sentence.format(
        cpu_s=limits.cpu_s,
        memory_mib=limits.memory_bytes // MIB,
        compiled_mib=limits.compiled_bytes // MIB,
        step_ms=limits.step_s * 1000,
    )
    return Verdict(code=code, message=message)


def _key_of(spec: GrammarSpec) -> bytes:
    digest = hashlib.sha256(spec.kind.encode())
    digest.update(b"\x00")
    digest.update(spec.text.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    paths = os.pathsep.join(path for path in sys.path if path)
    # NumPy's threads would be a reason not to fork.
    return {**kept, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
