"""Figures of a replay, their differences from the simulation, the table, and the client's body."""

import json
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.client.record import Outcome, Record
from loadtest.scenario import Slo
from loadtest.simulation.trace import Request
from loadtest.studies.replay_scaling.client import body
from loadtest.studies.replay_scaling.replay import decisions_of
from loadtest.studies.replay_scaling.results import (
    Figures,
    TierFigures,
    differences,
    replayed,
    table,
)
from serve_app.core.tiers import Tier
from serve_app.engine.fake.app import CHARACTERS_PER_TOKEN

SLO = Slo(ttft=2.0, tpot=0.1)
FIGURES = Figures(0.5, 3, {Tier.CHAT: TierFigures(100, 0.9, 5, 0, 0.2, 1.5, 0.08)})


def served(ttft_s: float, tpot_s: float, tier: Tier = Tier.CHAT) -> Record:
    record = Record(0, 0, tier, 0.0, 10, 11, sent_s=0.0, first_sent_s=0.0, output_tokens=11)
    record.token_s = array("d", (ttft_s, ttft_s + 10 * tpot_s))
    record.outcome = Outcome.SERVED
    return record


def ended(outcome: Outcome) -> Record:
    return Record(0, 0, Tier.CHAT, 0.0, 10, 11, sent_s=0.0, first_sent_s=0.0, outcome=outcome)


def test_of_all_that_asked_those_count_that_met_the_slo() -> None:
    records = [
        served(0.5, 0.05),
        served(0.6, 0.05),
        served(2.5, 0.05),
        served(0.5, 0.2),
        ended(Outcome.REFUSED),
        ended(Outcome.ERROR),
        served(0.1, 0.01, Tier.REASONING),
    ]
    figures = replayed(records, SLO, gpu_s=1800.0, actions=4)
    chat = figures.tiers[Tier.CHAT]
    assert (chat.requests, chat.refused, chat.errors) == (6, 1, 1)
    assert chat.goodput == pytest.approx(2 / 6)
    assert chat.tpot_p95_s == pytest.approx(0.2, rel=0.2)
    assert figures.goodput == pytest.approx(3 / 7)
    assert figures.gpu_hours == 0.5
    assert figures.as_dict()["tiers"]["reasoning"]["goodput"] == 1.0


def test_nothing_served_has_no_times() -> None:
    figures = replayed([ended(Outcome.REFUSED)], SLO, gpu_s=0.0, actions=0)
    assert figures.tiers[Tier.CHAT].ttft_p95_s is None
    assert figures.goodput == 0.0


@pytest.mark.parametrize(
    ("gpu_hours", "goodput", "within"),
    [
        (0.5, 0.9, True),
        (0.54, 0.83, True),
        (0.56, 0.9, False),
        (0.5, 0.8, False),
        (0.4, 0.9, False),
    ],
)
def test_a_tenth_is_what_they_may_differ_by(gpu_hours: float, goodput: float, within: bool) -> None:
    tier = replace(FIGURES.tiers[Tier.CHAT], goodput=goodput)
    difference = differences(
        replace(FIGURES, gpu_hours=gpu_hours, tiers={Tier.CHAT: tier}), FIGURES
    )
    assert difference["within"] is within
    assert difference["gpu_hours"] == pytest.approx(gpu_hours / 0.5 - 1, abs=1e-4)


def test_the_table_has_both_sides_and_their_difference() -> None:
    results = {
        "azure": {
            **{"law": "ours", "slow": 1.0, "minutes": 10.0, "date": "2026-11-29", "commit": "abc"},
            "replayed": FIGURES.as_dict(),
            "simulated": FIGURES.as_dict(),
            "difference": differences(FIGURES, FIGURES),
        },
        "meta": {
            "command": "python -m loadtest replay-scaling",
            "machine": {"cpu": "a CPU", "cores": 2},
        },
    }
    lines = table(results).splitlines()
    assert (
        lines[2] == "| azure, 10 min | ours | replayed | 0.500 | 90.0% | 1.50 s | 80 ms | 5 | 3 |"
    )
    assert lines[4] == "| | | difference | +0.0% | +0.0% | | | | |"
    assert "commit abc" in lines[-1]


@pytest.mark.parametrize("tokens", [1, 2, 7, 2000])
def test_the_client_asks_for_so_many_tokens_as_the_trace_has(tokens: int) -> None:
    document = json.loads(body(12, Request(Tier.CHAT, 0.0, tokens, 33, 1024)))
    content = document["messages"][0]["content"]
    assert content
    assert len(content) // CHARACTERS_PER_TOKEN + 1 == tokens
    assert document["min_tokens"] == 33
    assert document["max_tokens"] == 1024


def test_decisions_are_read_from_serves_log(tmp_path: Path) -> None:
    log = tmp_path / "controller_1.log"
    lines = [
        '{"message": "scale chat from 1 to 2: 1 replica at 130%", "x": 1}',
        "INFO ... -- scale reasoning from 2 to 1: calm",
        "Adding 1 replica to Deployment(name='chat')",
    ]
    log.write_text("\n".join(lines))
    assert decisions_of(log) == [
        "scale chat from 1 to 2: 1 replica at 130%",
        "scale reasoning from 2 to 1: calm",
    ]
