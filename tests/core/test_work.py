"""Work of requests in seconds of a replica, learnt lengths, and the rate at which work arrives."""

import random

import pytest

from serve_app.core.hardware import RTX_4090, T4, ModelShape
from serve_app.core.step_time import StepModel, StepSpeed, derived_step_model, observe_step
from serve_app.core.work import (
    ArrivalRate,
    LearntLengths,
    observe_arrival,
    observe_lengths,
    request_work_s,
)

SHAPE = ModelShape(1_777_088_000, 151_936 * 1_536, False, 28_672)
MODEL = StepModel(base_ms=10, per_sequence_ms=0.5, per_prompt_token_ms=0.1)


def test_the_derived_step_is_the_first_guess_of_the_calibration() -> None:
    assert derived_step_model(T4, SHAPE).step_ms(1) == pytest.approx(14.63, abs=0.05)
    assert derived_step_model(RTX_4090, SHAPE).step_ms(1) == pytest.approx(4.83, abs=0.05)


def test_a_replica_is_full_where_its_slots_are() -> None:
    """At a rate of 1 / request_s the batch that sustains it has exactly `slots` sequences."""
    slots, prompt, answer = 32, 500, 200
    rate_ms = 1 / (MODEL.request_s(slots=slots, prompt_tokens=prompt, new_tokens=answer) * 1e3)
    step_ms = MODEL.base_ms / (
        1 - rate_ms * (answer * MODEL.per_sequence_ms + prompt * MODEL.per_prompt_token_ms)
    )
    assert rate_ms * answer * step_ms == pytest.approx(slots)


def test_a_proof_is_more_work_than_a_short_answer() -> None:
    lengths = LearntLengths(100, 400)
    short, proof = (request_work_s(MODEL, lengths, slots=32, limit=limit) for limit in (40, 2048))
    assert proof > 5 * short


def test_lengths_are_learnt_and_limits_cut_them() -> None:
    lengths = LearntLengths(512, 400)
    assert (lengths.prompt_tokens, lengths.new_tokens(100)) == (512, 100)
    for answer in (50, 1000):
        lengths = observe_lengths(lengths, prompts=(20,), answers=(answer,))
    assert lengths.prompt_tokens == 20
    assert lengths.new_tokens(2048) == 525
    assert lengths.new_tokens(100) == 75


def test_measured_steps_correct_the_derived_ones() -> None:
    """A card that decodes twice and prefills three times as slowly as derived."""
    speed, dice = StepSpeed(), random.Random(1)
    for _ in range(3000):
        sequences, prompt = dice.randint(1, 30), dice.choice((0, 0, 200))
        took_ms = 2 * MODEL.step_ms(sequences) + 3 * MODEL.per_prompt_token_ms * prompt
        speed = observe_step(
            speed,
            MODEL,
            took_ms=took_ms * dice.uniform(0.8, 1.2),
            sequences=sequences,
            prompt_tokens=prompt,
        )
    measured = speed.applied_to(MODEL)
    assert measured.step_ms(10) == pytest.approx(2 * MODEL.step_ms(10), rel=0.1)
    assert measured.per_prompt_token_ms == pytest.approx(0.3, rel=0.25)


def arrive(rate: ArrivalRate, rps: float, from_s: float, to_s: float, seed: int = 3) -> ArrivalRate:
    dice, now_s = random.Random(seed), from_s
    while (now_s := now_s + dice.expovariate(rps)) < to_s:
        rate = observe_arrival(rate, now_s=now_s, work_s=0.1)
    return rate


def test_a_steady_rate_reads_as_it_is() -> None:
    rate = arrive(ArrivalRate(0.0, 0.0), 20, 0, 300)
    assert rate.load(300) == pytest.approx(2.0, rel=0.25)


def test_a_step_is_seen_within_seconds_and_forgotten_slowly() -> None:
    rate = arrive(arrive(ArrivalRate(0.0, 0.0), 2, 0, 300), 20, 300, 310)
    assert rate.load(310) > 1.0
    assert rate.load(340) > 0.2


def test_the_first_arrival_is_no_flood() -> None:
    rate = observe_arrival(ArrivalRate(0.0, 0.0), now_s=0.1, work_s=1.0)
    assert rate.load(0.1) <= 0.11


def test_nothing_arrives_at_all() -> None:
    assert ArrivalRate(0.0, 0.0).load(0.0) == 0.0
    assert ArrivalRate(0.0, 0.0).load(60.0) == 0.0
