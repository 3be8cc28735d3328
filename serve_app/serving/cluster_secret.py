"""The key by which replicas know each other, in Ray's key-value store.

Whoever reads that store holds Ray's token and could run code here anyway; an HTTP client does not.
"""

import secrets

from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from serve_app.api.forwarding import ClusterSecret
from serve_app.autoscaling.decision_store import NAMESPACE

_KEY = b"cluster-secret"


def cluster_secret() -> ClusterSecret:
    """The cluster's; made by the replica that asks first. Two calls to the head."""
    _internal_kv_put(_KEY, secrets.token_bytes(32), overwrite=False, namespace=NAMESPACE)
    key = _internal_kv_get(_KEY, namespace=NAMESPACE)
    if not key:
        raise RuntimeError("Ray's key-value store did not keep the cluster's secret")
    return ClusterSecret(key)
