"""Whoever sent a request: one who has shown a key, or nobody in particular."""

from dataclasses import dataclass

from serve_app.core.access.access_key import AccessKey
from serve_app.core.admission.fairness import ANONYMOUS, Flow


@dataclass(frozen=True, slots=True)
class Caller:
    """`key` is None where keys are off or not asked for, and of what another replica has forwarded:
    it was authenticated there, and only its flow comes along."""

    key: AccessKey | None = None
    flow: Flow = ANONYMOUS


NOBODY = Caller()
