"""A stranger's grammar is compiled in a child under limits; whatever comes of it is an answer."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.engine.grammar.compiler import GrammarSpec
from serve_app.engine.grammar.sandbox import GrammarSandbox, StructureRefusedError, Verdict
from serve_app.errors import RequestError
from tests.engine.grammars import a_sandbox, micro_tokenizer, micro_vocabulary, status_of

YES = GrammarSpec("ebnf", 'root ::= "yes" | "no"')
# xgrammar's recursion takes more stack than there is.
PARENTHESES = "(" * 100_000 + "a" + ")" * 100_000
# Compiles for far longer than any limit here.
ENDLESS = GrammarSpec("regex", "((a{1,100}){1,100}){1,100}b")


def schema_spec(schema: object) -> GrammarSpec:
    form = {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1}
    return GrammarSpec("structural_tag", json.dumps({"type": "structural_tag", "format": form}))


def tag_spec(schema: object) -> GrammarSpec:
    structure = {"begin": "<f>", "schema": schema, "end": "</f>"}
    return GrammarSpec(
        "structural_tag", json.dumps({"structures": [structure], "triggers": ["<f"]})
    )


def endless(number: int) -> GrammarSpec:
    return ENDLESS._replace(text=f"{ENDLESS.text}{number}")


@pytest.fixture(scope="module")
def vocabulary() -> str:
    return micro_vocabulary()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compile is judged by its CPU time, however long others have the cores."""
    monkeypatch.setattr("serve_app.engine.grammar.sandbox.WALL_FACTOR", 60.0)


@pytest.fixture
async def sandbox(vocabulary: str) -> AsyncIterator[GrammarSandbox]:
    async with a_sandbox(vocabulary) as sandbox:
        yield sandbox


async def code_of(sandbox: GrammarSandbox, spec: GrammarSpec) -> str:
    with pytest.raises(StructureRefusedError) as refused:
        await sandbox.check(spec)
    assert refused.value.message
    return refused.value.code


async def until(condition: Any, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (other processes set no event)
            await asyncio.sleep(0.02)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def exists(pid: int | str) -> bool:
    return Path(f"/proc/{pid}").exists()


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


# --- what passes


async def test_the_tokens_of_the_shortest_answer_are_reported(sandbox: GrammarSandbox) -> None:
    tokenizer = micro_tokenizer()
    shortest = (await sandbox.check(schema_spec({"const": 5}))).shortest_tokens
    assert shortest == len(tokenizer.encode("5", add_special_tokens=False)) == 1
    long = await sandbox.check(schema_spec({"type": "string", "minLength": 600}))
    assert long.shortest_tokens is None
    assert sandbox.counts.passed == 2


@pytest.mark.parametrize(
    "spec",
    [
        YES,
        GrammarSpec("lark", 'start: "yes" | "no"'),
        GrammarSpec("regex", "[a-c]{2,4}"),
        schema_spec({"type": "object", "properties": {"a": {"type": "string"}}}),
        schema_spec(True),
        tag_spec({"type": "string"}),
    ],
    ids=str,
)
async def test_every_kind_of_grammar_is_compiled(
    sandbox: GrammarSandbox, spec: GrammarSpec
) -> None:
    shortest = (await sandbox.check(spec)).shortest_tokens
    assert shortest is not None
    assert shortest < 10


# --- what is refused, by the limit that was met


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (schema_spec({"type": "string", "pattern": PARENTHESES}), "structure_too_deep"),
        (GrammarSpec("regex", PARENTHESES), "structure_invalid"),
        (ENDLESS, "structure_too_slow"),
        (GrammarSpec("regex", "a?" * 10_000 + "a" * 10_000), "structure_too_much_memory"),
        (GrammarSpec("regex", "((a*)*)*"), "structure_too_slow"),
        (GrammarSpec("ebnf", 'root ::= root root | "a" | ""'), "structure_too_slow"),
        (schema_spec({"$ref": "#"}), "structure_empty"),
        (
            schema_spec({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            "structure_empty",
        ),
        (GrammarSpec("ebnf", "root ::= root"), "structure_empty"),
        # Nobody has to begin such a tag.
        (tag_spec({"$ref": "#"}), "structure_empty"),
        (
            tag_spec({"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"}),
            "structure_too_slow",
        ),
        (GrammarSpec("ebnf", 'root ::= "a" b\nb ::= b'), "structure_empty"),
        (schema_spec({"$ref": "#/$defs/nowhere"}), "structure_invalid"),
        (schema_spec({"enum": []}), "structure_invalid"),
        (schema_spec({"type": "array", "items": [{"type": "string"}]}), "structure_invalid"),
        (schema_spec({"const": "\ud800"}), "structure_invalid"),
        (GrammarSpec("regex", r"\p{L}{1,5}"), "structure_invalid"),
        (GrammarSpec("ebnf", "root ::= nowhere"), "structure_invalid"),
        (GrammarSpec("structural_tag", "[]"), "structure_invalid"),
        (GrammarSpec("structural_tag", '{"structures": "x", "triggers": []}'), "structure_invalid"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_limit_that_is_met_is_reported(
    sandbox: GrammarSandbox, spec: GrammarSpec, code: str
) -> None:
    assert await code_of(sandbox, spec) == code
    assert sandbox.counts.refused == {code: 1}
    # The other process has borne it.
    assert (await sandbox.check(YES)).shortest_tokens == 1
    assert sandbox.counts.restarts == 0


async def test_a_grammar_that_compiles_to_too_much_is_refused(vocabulary: str) -> None:
    async with a_sandbox(vocabulary, max_compiled_mib=1) as sandbox:
        spec = schema_spec({"const": "a" * 20_000})
        assert await code_of(sandbox, spec) == "structure_too_large"


async def test_a_message_has_the_cause_without_xgrammars_source(
    sandbox: GrammarSandbox,
) -> None:
    with pytest.raises(StructureRefusedError) as refused:
        await sandbox.check(schema_spec({"$ref": "#/$defs/nowhere"}))
    assert "Cannot find field $defs" in refused.value.message
    assert ".cc" not in refused.value.message


# --- what is known, and what is shared


async def test_a_verdict_is_kept_good_or_bad(sandbox: GrammarSandbox) -> None:
    for _ in range(3):
        assert (await sandbox.check(YES)).shortest_tokens == 1
        assert await code_of(sandbox, GrammarSpec("ebnf", "root ::= root")) == "structure_empty"
    assert sandbox.counts.cache_hits == 4


async def test_verdicts_are_kept_within_their_memory(vocabulary: str) -> None:
    async with a_sandbox(vocabulary, cache_mib=1) as sandbox:
        kept = sandbox._verdicts
        assert kept.maxsize / kept.getsizeof(Verdict()) < 2000


async def test_those_who_ask_for_the_same_wait_for_one_compile(sandbox: GrammarSandbox) -> None:
    codes = await asyncio.gather(*(code_of(sandbox, ENDLESS) for _ in range(5)))
    assert set(codes) == {"structure_too_slow"}
    assert (sandbox.counts.shared, sandbox.counts.cache_hits) == (4, 0)
    assert sandbox._numbers == 1


async def test_a_compile_ends_when_the_last_who_waits_for_it_leaves(vocabulary: str) -> None:
    async with a_sandbox(vocabulary, compile_timeout_s=60) as sandbox:
        await sandbox.check(YES)
        pid = sandbox.worker_pid
        assert pid is not None
        waiting = [asyncio.ensure_future(sandbox.check(ENDLESS)) for _ in range(2)]
        await until(lambda: children_of(pid))
        waiting[0].cancel()
        await asyncio.sleep(0.1)
        assert children_of(pid)
        waiting[1].cancel()
        await until(lambda: not children_of(pid))
        assert await asyncio.gather(*waiting, return_exceptions=True)


# --- others


async def test_known_and_closing_ones_do_not_wait_for_new_ones(vocabulary: str) -> None:
    async with a_sandbox(vocabulary, workers=1, compile_timeout_s=60) as sandbox:
        await sandbox.check(YES)
        slow = [asyncio.ensure_future(sandbox.check(endless(n))) for n in range(3)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(20):
            assert (await sandbox.check(YES)).shortest_tokens == 1
            assert await sandbox.close(YES, (), least_kept=0, most_tokens=5) is not None
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_who_waits_too_long_is_refused_with_a_retry_after(vocabulary: str) -> None:
    config = {"workers": 1, "compile_timeout_s": 60.0, "max_wait_s": 0.2, "max_waiting": 1}
    async with a_sandbox(vocabulary, **config) as sandbox:
        slow = asyncio.ensure_future(sandbox.check(ENDLESS))
        await asyncio.sleep(0.05)
        answers = [asyncio.ensure_future(sandbox.check(endless(n))) for n in range(2)]
        for answer in answers:
            with pytest.raises(RequestError) as refused:
                await answer
            assert (refused.value.status, refused.value.retry_after_s) == (503, 2)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        # Nothing is known of what had no turn.
        assert len(sandbox._verdicts) == 0


# --- the other process


async def test_a_worker_that_dies_is_started_again_and_its_work_done_anew(
    sandbox: GrammarSandbox,
) -> None:
    await sandbox.check(YES)
    pid = sandbox.worker_pid
    assert pid is not None
    asked = asyncio.ensure_future(sandbox.check(GrammarSpec("regex", "[a-z]{1,300}b")))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    assert await asked is not None
    assert sandbox.worker_pid != pid
    assert sandbox.counts.restarts == 1


async def test_a_worker_that_hangs_is_given_up(
    vocabulary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_sandbox(vocabulary, compile_timeout_s=0.2) as sandbox:
        await sandbox.check(YES)
        monkeypatch.setattr("serve_app.engine.grammar.sandbox.WALL_FACTOR", 1.0)
        # Enough for the next one's start on a busy machine.
        monkeypatch.setattr("serve_app.engine.grammar.sandbox.GRACE_S", 6.0)
        pid = sandbox.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        assert await sandbox.check(GrammarSpec("regex", "ab")) is not None
        assert sandbox.worker_pid != pid


async def test_the_worker_and_its_children_end_with_the_sandbox(vocabulary: str) -> None:
    async with a_sandbox(vocabulary, compile_timeout_s=60) as sandbox:
        await sandbox.check(YES)
        pid = sandbox.worker_pid
        assert pid is not None
        asked = asyncio.ensure_future(sandbox.check(ENDLESS))
        await until(lambda: children_of(pid))
        (child,) = children_of(pid)
        sandbox.stop()
        await until(lambda: not exists(child))
        assert not exists(pid)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


async def test_the_worker_is_small_and_has_one_thread(sandbox: GrammarSandbox) -> None:
    """It is held beside each replica, and forked for each new schema."""
    await sandbox.check(YES)
    pid = sandbox.worker_pid
    assert pid is not None
    assert int(status_of(pid, "VmRSS").split()[0]) < 120_000
    assert status_of(pid, "Threads") == "1"
    # A stranger's text is read there: no key of this process is to be found.
    assert b"TIERSERVE" not in environment_of(pid)


async def test_what_is_closed_can_be_read_on(sandbox: GrammarSandbox) -> None:
    tokenizer = micro_tokenizer()
    spec = schema_spec({"type": "object", "properties": {"a": {"type": "string"}}})
    answer = tokenizer.encode('{"a": "b', add_special_tokens=False)
    closed = await sandbox.close(spec, answer, least_kept=0, most_tokens=20)
    assert closed is not None
    assert json.loads(tokenizer.decode([*answer[: closed.kept], *closed.ids])) == {"a": "b"}
    assert await sandbox.close(spec, answer, least_kept=0, most_tokens=1) is None
    assert await sandbox.close(endless(0), (), least_kept=0, most_tokens=20) is None


async def test_a_message_that_is_cut_inside_a_character_says_so_in_plain_words(
    sandbox: GrammarSandbox,
) -> None:
    for characters in range(1, 80):
        with pytest.raises(StructureRefusedError) as refused:
            await sandbox.check(GrammarSpec("ebnf", "\u00e9" * characters))
        assert "codec" not in refused.value.message
