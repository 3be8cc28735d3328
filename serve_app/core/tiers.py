"""The two classes of traffic, each with a deployment, a route and limits of its own."""

from enum import StrEnum


class Tier(StrEnum):
    CHAT = "chat"
    REASONING = "reasoning"

    @property
    def route_prefix(self) -> str:
        return f"/api/{self.value}"

    @property
    def other(self) -> "Tier":
        return Tier.REASONING if self is Tier.CHAT else Tier.CHAT


DEFAULT_MAX_NEW_TOKENS = {Tier.CHAT: 1024, Tier.REASONING: 2048}
