"""Rules that come from the operator and from the versions it is used with."""

from collections.abc import Iterator
from importlib.metadata import version

from tests.k8s.manifests import Manifests
from tests.k8s.operator_rules import refusals


def operator_accepts(m: Manifests) -> Iterator[str]:
    """KubeRay refuses some of what the API server takes, in its log only."""
    yield from refusals(m.rayservice)


def ray_version_is_the_locked_one(m: Manifests) -> Iterator[str]:
    """The operator chooses probes and start parameters by it."""
    if m.cluster["rayVersion"] != version("ray"):
        yield f"rayVersion {m.cluster['rayVersion']}, installed {version('ray')}"
