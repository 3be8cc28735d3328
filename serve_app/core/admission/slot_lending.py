"""Whether a tier lends slots to the other one, and whether an engine may stand in for another."""

from dataclasses import dataclass

# Of the SLO, what its own requests may need while slots are lent: forecasts err, and a stream is
# slowed by all prompts that come while it runs.
SLO_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Lending:
    """`allowed`, and why or why not."""

    allowed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What decides whether two engines give the same answer in the same form. `parsers` is
    whatever shapes an answer besides the model, as one text."""

    model: str
    context_tokens: int
    parsers: str


def may_lend(
    *,
    slots: int,
    running: int,
    borrowed: int,
    queued: int,
    sequences: int,
    lend_share: float,
    ttft_s: float,
    tpot_s: float,
    slo_ttft_s: float,
    slo_tpot_s: float,
) -> Lending:
    """Whether a replica takes `sequences` of the other tier. Of the `running` ones, `borrowed`
    belong to the other tier already.

    A tier's own requests come first: nothing is lent while one of them waits, and `1 - lend_share`
    of the slots are never lent, so that what comes next starts at once. Nor is anything lent that
    its own would pay for: `ttft_s` is when the next one of them would have its first token behind
    what is lent, `tpot_s` what a token of those that run would take beside it.
    """
    if lend_share <= 0:
        return Lending(False, "this tier lends no slots")
    if queued:
        return Lending(False, "requests of its own wait")
    if running + sequences > slots:
        return Lending(False, "its slots are busy")
    if borrowed + sequences > lend_share * slots:
        return Lending(False, f"{borrowed} of {slots} slots are lent already")
    if ttft_s > SLO_SHARE * slo_ttft_s:
        return Lending(False, f"the next request of its own would begin in {ttft_s:.1f} s")
    if tpot_s > SLO_SHARE * slo_tpot_s:
        return Lending(False, f"its streams would take {tpot_s * 1e3:.0f} ms a token")
    return Lending(True, "slots are idle")


def stands_in_for(lender: AnswerForm, borrower: AnswerForm) -> bool:
    """Whether `lender` answers whatever `borrower` would, in the same form."""
    return (
        lender.model == borrower.model
        and lender.parsers == borrower.parsers
        and lender.context_tokens >= borrower.context_tokens
    )
