"""The key by which replicas know each other, in Ray's key-value store.

Whoever reads that store holds Ray's token and could run code here anyway; an HTTP client does not.
"""

import secrets

from serve_app.api.forwarding import ClusterSecret
from serve_app.autoscaling.decision_store import NAMESPACE
from serve_app.serving.ray_internals import kv_get, kv_put

_KEY = b"cluster-secret"


def cluster_secret() -> ClusterSecret:
    """The cluster's; made by the replica that asks first. Two calls to the head."""
    kv_put(_KEY, secrets.token_bytes(32), overwrite=False, namespace=NAMESPACE)
    key = kv_get(_KEY, namespace=NAMESPACE)
    if not key:
        raise RuntimeError("Ray's key-value store did not keep the cluster's secret")
    return ClusterSecret(key)
