"""How a request's tokens are spent on its answer, beyond how many they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class AnswerPolicy(StrEnum):
    """`truncate`: reason up to the budget, then answer. `direct`: no reasoning."""

    TRUNCATE = "truncate"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """What tier and request have chosen."""

    policy: AnswerPolicy


def read_policy(fields: Mapping[str, Any]) -> PolicyPlan:
    """The plan whose fields these are, as JSON has them. Raises TypeError, KeyError or ValueError
    for another version's."""
    return PolicyPlan(**{**fields, "policy": AnswerPolicy(fields["policy"])})
