"""A key as the service knows it: never the secret itself."""

from dataclasses import dataclass
from enum import StrEnum

from serve_app.core.tiers import Tier


class Priority(StrEnum):
    """`interactive` keys go before `background` ones, which are not starved for it."""

    INTERACTIVE = "interactive"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """None: without a limit. Tokens are those of prompts and answers together; a day is UTC's."""

    max_concurrent: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None

    @property
    def unlimited(self) -> bool:
        """Whether nothing has to be reserved for a request."""
        return self == KeyLimits()


@dataclass(frozen=True, slots=True)
class AccessKey:
    """`name` is what logs, metrics and usage show; `expires_at_s` is a Unix time."""

    name: str
    tiers: frozenset[Tier] = frozenset(Tier)
    weight: float = 1.0
    priority: Priority = Priority.INTERACTIVE
    limits: KeyLimits = KeyLimits()
    admin: bool = False
    expires_at_s: float | None = None

    def expired(self, now_s: float) -> bool:
        """Whether it has ended at Unix time `now_s`."""
        return self.expires_at_s is not None and now_s >= self.expires_at_s


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key in the store: `key_id` is the public part of what its owner sends, `secret_hash` a
    keyed hash of the secret part. A revoked key has no record."""

    key_id: str
    secret_hash: bytes
    key: AccessKey


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """All valid keys at one revision of the store."""

    revision: int
    records: tuple[KeyRecord, ...] = ()
