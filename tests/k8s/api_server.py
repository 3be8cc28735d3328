"""Rules that are the API server's own: the schemas of built-in kinds, and of KubeRay's."""

from collections.abc import Iterator
from copy import deepcopy

import kubernetes_validate

from tests.k8s.crd_schema import faults, load_schema
from tests.k8s.manifests import Manifests
from tests.k8s.operator_pods import pods_of

# The oldest Kubernetes that the overlays are for: strict, so that newer fields are found too.
VERSION = "1.32"
# Named, because kubernetes-validate only warns of a kind that it does not know.
BUILT_IN = (
    "ConfigMap",
    "Deployment",
    "Ingress",
    "Namespace",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "Service",
    "ServiceAccount",
    "StatefulSet",
)
# Of these no schema is at hand: rules read the fields that matter.
UNCHECKED = ("HTTPRoute", "GCPBackendPolicy", "HealthCheckPolicy")


def crd_takes_the_rayservice(m: Manifests) -> Iterator[str]:
    """Types, unknown fields, list keys and CEL rules of the CRD."""
    yield from faults(load_schema(), deepcopy(m.rayservice))


def schemas_take_the_rest(m: Manifests) -> Iterator[str]:
    """Built-in kinds and the Pods that the operator makes, strictly: no unknown field."""
    for each in (*m.objects, *pods_of(m.rayservice)):
        if each["kind"] in ("RayService", *UNCHECKED):
            continue
        if each["kind"] not in (*BUILT_IN, "Pod"):
            yield f"no schema is named for {each['kind']}"
            continue
        try:
            kubernetes_validate.validate(each, VERSION, strict=True)
        except kubernetes_validate.ValidationError as fault:
            where = "/".join(str(part) for part in fault.path)
            yield f"{each['kind']} {each['metadata']['name']} {where}: {fault.message[:200]}"
