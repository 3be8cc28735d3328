"""Whether a tier lends slots to the other one, and whether an engine may stand in for another."""

from dataclasses import dataclass


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
) -> Lending:
    """Whether a replica takes `sequences` of the other tier. Of the `running` ones, `borrowed`
    belong to the other tier already.

    A tier's own requests come first: nothing is lent while one of them waits, and `1 - lend_share`
    of the slots are never lent, so that what comes next starts at once.
    """
    if lend_share <= 0:
        return Lending(False, "this tier lends no slots")
    if queued:
        return Lending(False, "requests of its own wait")
    if running + sequences > slots:
        return Lending(False, "its slots are busy")
    if borrowed + sequences > lend_share * slots:
        return Lending(False, f"{borrowed} of {slots} slots are lent already")
    return Lending(True, "slots are idle")


def stands_in_for(lender: AnswerForm, borrower: AnswerForm) -> bool:
    """Whether `lender` answers whatever `borrower` would, in the same form."""
    return (
        lender.model == borrower.model
        and lender.parsers == borrower.parsers
        and lender.context_tokens >= borrower.context_tokens
    )
