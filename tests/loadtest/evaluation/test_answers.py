"""`tierserve bench answers` against a server that answers as a test says."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from loadtest.errors import UserError
from loadtest.evaluation import answers
from loadtest.evaluation.answers import RESULTS, SETTINGS, measure, run
from loadtest.evaluation.policy_spec import PolicySpec
from serve_app.config.tier import TierSettings
from serve_app.core.reasoning.answer_policy import AnswerPolicy
from tests.builders import some_settings
from tests.loadtest.evaluation.fake_openai import FakeOpenAI, GraderHere, Reply, options_of, sums

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def _grade_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "Grader", GraderHere)


def tier(body: dict[str, Any], number: int) -> Reply:
    """Right without reasoning; a pair takes 30 tokens beside, a trial agrees at odd problems."""
    policy = body["answer_policy"].partition(":")[0]
    first = int(body["messages"][0]["content"].split()[0])
    budget = body.get("thinking_token_budget", 20)
    report: dict[str, Any] = {"policy": policy}
    if policy in ("early_exit", "pair"):
        report["agreed"] = first % 2 == 1
    return Reply(
        answer=rf"\boxed{{{first + 3}}}",
        thought="" if policy == "direct" else "hm " * budget,
        policy=report,
        unseen=30 if policy == "pair" else 0,
    )


def options(fake: FakeOpenAI, folder: Path, *more: object, count: int = 4) -> Any:
    dataset = sums(folder, count)
    words = ("--base-url", fake.url, "--dataset", dataset, "--no-directive", "--concurrency", 1)
    return options_of("answers", *words, "--out", folder / "out", *more)


async def test_policies_are_asked_in_turn_and_the_best_one_is_written(tmp_path: Path) -> None:
    policies = ("truncate", "truncate:5", "pair:32@9", "direct")
    async with FakeOpenAI(tier) as fake:
        # So few problems leave much open.
        words = ("--margin", 90, "--policies", *policies)
        assert await measure(options(fake, tmp_path, *words, count=8), QUIET) == 0
        asked = [(b["answer_policy"], b.get("thinking_token_budget")) for b in fake.bodies]
    each = [("truncate", None), ("truncate", 5), ("pair:32", 9), ("direct", None)]
    # Four at a time of each, and another one first at each turn.
    assert asked[::4] == [*each, *each[1:], each[0]]
    found = json.loads((tmp_path / "out" / RESULTS).read_text())
    rows = found["policies"]
    assert list(rows) == list(policies)
    means = [rows[name]["completion_tokens_mean"] for name in policies]
    assert means == [21.0, 6.0, 40.0, 1.0]
    assert rows["pair:32@9"]["agreed_share"] == 0.5
    assert rows["pair:32@9"]["against_default"]["tokens_ratio"]["value"] == round(40 / 21, 5)
    assert rows["truncate"]["against_default"] is None
    assert found["frontier"] == ["direct"]
    assert found["choice"]["name"] == "direct"
    page = (tmp_path / "out" / "answers.md").read_text()
    assert "| **direct** | 100.0% |" in page
    assert (tmp_path / "out" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((tmp_path / "out" / SETTINGS).read_text()) == {
        "answers": {"policy": "direct"}
    }


async def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async with FakeOpenAI(tier) as fake:
        words = ("--policies", "truncate", "direct")
        await measure(options(fake, tmp_path, *words), QUIET)
        first = (tmp_path / "out" / RESULTS).read_text()
        kept = tmp_path / "out" / "direct" / "answers.jsonl"
        kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:3]) + '{"torn')
        fake.bodies.clear()
        await measure(options(fake, tmp_path, *words), QUIET)
        assert [body["answer_policy"] for body in fake.bodies] == ["direct"]
        assert (
            json.loads(first)["choice"]
            == json.loads((tmp_path / "out" / RESULTS).read_text())["choice"]
        )


async def test_a_server_that_knows_no_policies_is_found_out(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake:
        with pytest.raises(UserError, match="it reports no answer policy"):
            await measure(options(fake, tmp_path, "--policies", "direct", "truncate"), QUIET)


async def test_a_policy_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    async with FakeOpenAI(tier) as fake:
        chosen = options(fake, tmp_path, "--policies", "truncate:8", "truncate@8")
        with pytest.raises(UserError, match="twice"):
            run(chosen, [], QUIET)


@pytest.mark.parametrize("policy", AnswerPolicy)
def test_each_policys_settings_are_a_tiers(policy: AnswerPolicy) -> None:
    number = "" if policy in ("truncate", "direct") else ":8"
    spec = PolicySpec.read(f"{policy}{number}" + ("" if policy == "direct" else "@64"))
    assert PolicySpec.read(str(spec)) == spec
    settings = TierSettings.model_validate({**some_settings().model_dump(), **spec.settings})
    assert settings.answers.policy is policy
    assert settings.thinking.budget_tokens == (None if policy == "direct" else 64)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("best", "is no policy"),
        ("vote:", "is no policy"),
        ("vote:3:4", "is no policy"),
        ("", "is no policy"),
        ("direct:3", "takes no number"),
        ("direct@9", "write direct"),
        ("truncate:0", "write direct"),
        ("truncate:9@9", "names two budgets"),
    ],
)
def test_what_is_no_policy_is_refused(
    text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options_of("answers", "--policies", text)
    assert says in capsys.readouterr().err
