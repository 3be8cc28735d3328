"""Learnt lengths and speeds, and the rate at which requests arrive."""

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve_app.core.placement.hardware import RTX_4090, T4, ModelShape
from serve_app.core.scaling.step_time import StepModel, StepSpeed, derived_step_model, observe_step
from serve_app.core.scaling.workload import (
    EXPECTED_COUNTS_AS,
    LENGTHS_KEPT,
    LONGEST_COUNTS_AS,
    AnswerRate,
    ArrivalRate,
    LearntLengths,
    bounded_total,
    observe_answers,
    observe_arrival,
    observe_lengths,
)

SHAPE = ModelShape(1_777_088_000, 151_936 * 1_536, False, 28_672)
MODEL = StepModel(base_ms=10, per_sequence_ms=0.5, per_prompt_token_ms=0.1)


def test_the_derived_step_is_the_first_guess_of_the_calibration() -> None:
    assert derived_step_model(T4, SHAPE).step_ms(1) == pytest.approx(14.63, abs=0.05)
    assert derived_step_model(RTX_4090, SHAPE).step_ms(1) == pytest.approx(5.07, abs=0.05)


def test_a_replica_is_full_where_its_slots_are() -> None:
    """At a rate of 1 / request_s the batch that sustains it has exactly `slots` sequences."""
    slots, prompt, answer = 32, 500, 200
    rate_ms = 1 / (MODEL.request_s(slots=slots, prompt_tokens=prompt, new_tokens=answer) * 1e3)
    step_ms = MODEL.base_ms / (
        1 - rate_ms * (answer * MODEL.per_sequence_ms + prompt * MODEL.per_prompt_token_ms)
    )
    assert rate_ms * answer * step_ms == pytest.approx(slots)


def test_the_first_answers_do_not_replace_what_was_expected() -> None:
    """They are the shortest: a replica's first answer of six tokens says nothing of the rest."""
    first = observe_lengths(LearntLengths(512, 400), prompts=(512,), answers=(6,))
    assert first.new_tokens(2048) == pytest.approx(400, rel=0.05)
    assert first.prompt_tokens == pytest.approx(512)


def test_lengths_are_learnt_and_limits_cut_them() -> None:
    lengths = LearntLengths(512, 400)
    assert (lengths.prompt_tokens, lengths.new_tokens(100)) == (512, 100)
    many = LENGTHS_KEPT // 2
    lengths = observe_lengths(lengths, prompts=(20,) * 2 * many, answers=(50, 1000) * many)
    assert lengths.prompt_tokens == pytest.approx(20), "what was expected is forgotten by then"
    assert lengths.new_tokens(2048) == pytest.approx(525)
    assert lengths.new_tokens(100) == pytest.approx(75)
    assert lengths.variation == pytest.approx(0)


@given(
    st.lists(st.floats(1, 4000), min_size=1, max_size=40),
    st.floats(1, 1e6),
    st.floats(1, 4000),
    st.integers(0, 40),
)
def test_one_odd_length_counts_for_four_of_the_others_at_most(
    lengths: list[float], odd: float, expected: float, count: int
) -> None:
    others = sum(lengths) + count * expected
    mean = others / (len(lengths) + count)
    total = bounded_total([*lengths, odd], expected, count)
    most = others + min(odd, LONGEST_COUNTS_AS * mean)
    assert total <= most * (1 + 1e-9)
    if odd >= max(lengths):
        assert total == pytest.approx(most)


@given(st.lists(st.floats(1, 4000), min_size=1, max_size=40))
def test_lengths_alike_are_summed_as_they_are(lengths: list[float]) -> None:
    alike = [1000 + length / 10 for length in lengths]
    assert bounded_total(alike, 1000) == pytest.approx(sum(alike))


def test_the_variation_of_prompts_is_learnt_from_many() -> None:
    lengths = LearntLengths(512, 400)
    few = observe_lengths(lengths, prompts=(10, 30), answers=())
    many = observe_lengths(lengths, prompts=(10, 30) * EXPECTED_COUNTS_AS, answers=())
    assert (few.variation, many.variation) == (1.0, pytest.approx(0.25))


def test_measured_steps_correct_the_derived_ones() -> None:
    """A GPU that decodes twice and prefills three times as slowly as derived."""
    speed, rng = StepSpeed(), random.Random(1)
    for _ in range(3000):
        sequences, prompt = rng.randint(1, 30), rng.choice((0, 0, 200))
        took_ms = 2 * MODEL.step_ms(sequences) + 3 * MODEL.per_prompt_token_ms * prompt
        speed = observe_step(
            speed,
            MODEL,
            took_ms=took_ms * rng.uniform(0.8, 1.2),
            sequences=sequences,
            prompt_tokens=prompt,
        )
    measured = speed.applied_to(MODEL)
    assert measured.step_ms(10) == pytest.approx(2 * MODEL.step_ms(10), rel=0.1)
    assert measured.per_prompt_token_ms == pytest.approx(0.3, rel=0.25)


@pytest.mark.parametrize("before", [0, 3, 5000])
def test_many_steps_that_are_alike_teach_as_much_together_as_one_by_one(before: int) -> None:
    one_by_one = together = StepSpeed(steps=before)
    for _ in range(40):
        one_by_one = observe_step(one_by_one, MODEL, took_ms=33.0, sequences=10, prompt_tokens=0)
    together = observe_step(together, MODEL, took_ms=33.0, sequences=10, prompt_tokens=0, steps=40)
    assert together.decode_factor == pytest.approx(one_by_one.decode_factor)
    assert together.steps == one_by_one.steps


def test_steps_that_make_more_tokens_than_one_each_are_as_many_quicker_ones() -> None:
    """Of drafts two in three are accepted: a step of 10 sequences makes 20 tokens in 1.2 times the
    time. A prompt takes what it takes without drafts."""
    speed, step_ms = StepSpeed(), 1.2 * MODEL.step_ms(10)
    for _ in range(500):
        speed = observe_step(
            speed, MODEL, took_ms=step_ms, sequences=10, prompt_tokens=0, tokens=20
        )
    assert speed.decode_factor == pytest.approx(0.6)
    took_ms = step_ms + MODEL.per_prompt_token_ms * 400
    for _ in range(500):
        speed = observe_step(
            speed, MODEL, took_ms=took_ms, sequences=10, prompt_tokens=400, tokens=20
        )
    assert speed.prefill_factor == pytest.approx(1.0)


def test_short_prompts_in_steps_that_vary_teach_no_slow_prefill() -> None:
    """Ten tokens take a millisecond, and steps vary by more than ten: a prefill that seems many
    times as slow would make a replica of such requests look full."""
    speed, rng = StepSpeed(), random.Random(2)
    for _ in range(20_000):
        took_ms = MODEL.step_ms(40) * rng.uniform(0.5, 1.5) + MODEL.per_prompt_token_ms * 10
        speed = observe_step(speed, MODEL, took_ms=took_ms, sequences=40, prompt_tokens=10)
    assert speed.prefill_factor == pytest.approx(1.0, abs=0.6)


def arrive(rate: ArrivalRate, rps: float, from_s: float, to_s: float, seed: int = 3) -> ArrivalRate:
    rng, now_s = random.Random(seed), from_s
    while (now_s := now_s + rng.expovariate(rps)) < to_s:
        rate = observe_arrival(rate, now_s=now_s, requests=1, prompt_tokens=100)
    return rate.at(to_s)


def test_a_steady_rate_reads_as_it_is() -> None:
    rate = arrive(ArrivalRate(0.0, 0.0), 20, 0, 300)
    assert rate.slow.requests_per_s == pytest.approx(20, rel=0.15)
    assert rate.quick.requests_per_s == pytest.approx(20, rel=0.35)
    assert rate.slow.prompt_tokens_per_s == pytest.approx(100 * rate.slow.requests_per_s)


def test_a_step_is_seen_within_seconds_and_forgotten_slowly() -> None:
    after = arrive(arrive(ArrivalRate(0.0, 0.0), 2, 0, 300), 20, 300, 310)
    assert after.quick.requests_per_s > 10
    assert after.at(340).quick.requests_per_s < 0.2
    assert after.at(340).slow.requests_per_s > 2


def test_the_means_of_replicas_add_up_to_those_of_their_tier() -> None:
    """Also where one joins later: that is why they are not scaled up for a short time."""
    whole = old = ArrivalRate(0.0, 0.0)
    new = ArrivalRate(60.0, 60.0)
    for second in range(120):
        whole = observe_arrival(whole, now_s=second, requests=1, prompt_tokens=9)
        if second < 60 or second % 2:
            old = observe_arrival(old, now_s=second, requests=1, prompt_tokens=9)
        else:
            new = observe_arrival(new, now_s=second, requests=1, prompt_tokens=9)
    for mean in ("slow", "quick"):
        parts = [getattr(rate.at(120), mean).requests_per_s for rate in (old, new)]
        assert sum(parts) == pytest.approx(getattr(whole.at(120), mean).requests_per_s)


def test_nothing_arrives_at_all() -> None:
    rate = ArrivalRate(0.0, 0.0).at(60.0)
    assert rate.slow.requests_per_s == rate.quick.requests_per_s == 0


def test_answers_that_still_run_count_for_their_length() -> None:
    """Twenty a second begin, each as long as chance has it; after half a minute the short ones have
    ended, and their mean is far too low."""
    rng = random.Random(5)
    lengths = [rng.expovariate(1 / 1000) for _ in range(600)]
    rate, ended, made = AnswerRate(0.0), 0, lengths
    for second in range(1, 31):
        made = [min(length, 20.0 * (second - i / 20)) for i, length in enumerate(lengths)]
        made = [tokens for tokens in made if tokens > 0]
        done = sum(tokens == length for tokens, length in zip(made, lengths, strict=False))
        rate = observe_answers(
            rate, now_s=float(second), tokens_total=sum(made), ended=done - ended
        )
        ended = done
    of_those_that_ended = sum(x for x, m in zip(lengths, made, strict=False) if x == m) / ended
    assert of_those_that_ended < 400
    assert rate.mean_tokens(1000) == pytest.approx(1000, rel=0.2)


def test_without_answers_the_expected_length_stands() -> None:
    rate = observe_answers(AnswerRate(0.0), now_s=9.0, tokens_total=0.0, ended=0.0)
    assert rate.mean_tokens(400) == 400


def known(answers: list[int]) -> LearntLengths:
    return observe_lengths(LearntLengths(512, 400), prompts=(), answers=answers)


def test_lengths_that_are_all_alike_have_memory() -> None:
    rng = random.Random(3)
    assert known([500] * LENGTHS_KEPT).memoryless == pytest.approx(0)
    assert known([round(rng.expovariate(1 / 800)) + 1 for _ in range(256)]).memoryless > 0.8
    assert known([500] * 4).memoryless > 0.9, "as good as unknown"
    assert known([]).memoryless == known([0] * LENGTHS_KEPT).memoryless == 1


def load_doubles(*, length: int, until_s: int) -> AnswerRate:
    """One a second, and two from second 200 on, each of so many tokens at 20 a second."""
    begins = [*map(float, range(200)), *(200 + i / 2 for i in range(2 * until_s))]
    rate, ended = AnswerRate(0.0), 0
    for second in range(1, until_s):
        made = [min(length, 20.0 * max(0.0, second - at_s)) for at_s in begins]
        done = sum(tokens == length for tokens in made)
        rate = observe_answers(
            rate,
            now_s=float(second),
            tokens_total=sum(made),
            ended=done - ended,
            ended_tokens=length * (done - ended),
        )
        ended = done
    return rate


def test_twice_the_load_makes_answers_of_one_length_no_longer() -> None:
    rate = load_doubles(length=1000, until_s=245)
    assert rate.mean_tokens(1000) > 1150, "none of those that came has ended"
    assert rate.mean_tokens(1000, memoryless=0.0) == pytest.approx(1000)


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=8),
    st.floats(-0.004, 0.004),
)
def test_a_mean_length_is_right_while_load_changes(spread: list[int], growth: float) -> None:
    """Whatever the lengths: of arrivals that grow by this part in the time of a token."""
    lengths = (spread * LENGTHS_KEPT)[:LENGTHS_KEPT]
    memoryless, many = known(lengths).memoryless, 1e6
    mean = sum(lengths) / len(lengths)
    assume(memoryless < 1)
    rate = AnswerRate(
        0.0,
        tokens=many * sum(length - growth * length**2 / 2 for length in lengths),
        ended=many * sum(1 - growth * length for length in lengths),
        ended_tokens=many * sum(length - growth * length**2 for length in lengths),
    )
    assert rate.mean_tokens(mean, memoryless) == pytest.approx(mean, rel=1e-4)


@given(
    st.lists(st.tuples(st.floats(0, 60), st.floats(0, 9e4), st.integers(0, 99)), max_size=20),
    st.floats(1, 4000),
    st.floats(0, 1),
)
def test_a_mean_length_is_between_what_was_made_and_what_ended(
    steps: list[tuple[float, float, int]], expected: float, memoryless: float
) -> None:
    rate, total = AnswerRate(0.0), 0.0
    for passed_s, tokens, ended in steps:
        total += tokens
        rate = observe_answers(
            rate,
            now_s=rate.read_s + passed_s,
            tokens_total=total,
            ended=ended,
            ended_tokens=300.0 * ended,
        )
    bounds = sorted((rate.mean_tokens(expected, 0.0), rate.mean_tokens(expected, 1.0)))
    assert bounds[0] * (1 - 1e-9) <= rate.mean_tokens(expected, memoryless)
    assert rate.mean_tokens(expected, memoryless) <= bounds[1] * (1 + 1e-9)


@given(st.lists(st.integers(0, 4096), max_size=300))
def test_how_memoryless_lengths_are_is_a_part(answers: list[int]) -> None:
    assert 0 <= known(answers).memoryless <= 1
