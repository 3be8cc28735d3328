"""Whose kept streams make room for another caller's."""

from collections.abc import Mapping


def gives_way(held: Mapping[str, int], asking: str, more: int) -> str:
    """The caller whose streams make room where `asking` would have `more` of what is short; `held`
    has what each caller has of it now.

    The one that has most, `asking` counted with what it would have. So a caller that has no more
    than an equal part never gives way to another one, and one alone may have everything.
    """
    most = max(held, key=lambda caller: (held[caller], caller), default=asking)
    return most if held.get(most, 0) > held.get(asking, 0) + more else asking
