"""Whose request it is, for a gate that is fair among its callers."""

from dataclasses import dataclass

from serve_app.core.access.access_key import Priority


@dataclass(frozen=True, slots=True)
class Flow:
    """The requests of one caller: what is fair is so among flows. One with twice the `weight` of
    another has twice the work done while both have requests waiting."""

    name: str
    weight: float = 1.0
    priority: Priority = Priority.INTERACTIVE


# Of all who have no key.
ANONYMOUS = Flow("")
