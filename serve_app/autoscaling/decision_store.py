"""Where the controller leaves its scaling decisions for `/api/tiers`: Ray's key-value store.

Serve keeps a policy's state inside the controller and shows it to no one. Ray's store outlives
the controller, and reading it is one call to the head.
"""

import json

from serve_app.core.scaling.decision_record import ScalingRecord
from serve_app.core.tiers import Tier
from serve_app.serving.ray_internals import kv_get, kv_put

NAMESPACE = b"tierserve"


def write_record(tier: Tier, record: ScalingRecord) -> None:
    """One call to the head, about a millisecond."""
    kv_put(_key(tier), json.dumps(record.as_dict()).encode(), namespace=NAMESPACE)


def read_record(tier: Tier) -> ScalingRecord | None:
    """None before the first decision."""
    stored = kv_get(_key(tier), namespace=NAMESPACE)
    return None if stored is None else ScalingRecord.from_dict(json.loads(stored))


def _key(tier: Tier) -> bytes:
    return b"scaling-" + tier.value.encode()
