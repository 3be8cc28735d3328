"""What Ray's own autoscaler makes of the groups: the resources and labels that it plans with."""

from collections.abc import Callable

import pytest

from tests.k8s.manifests import ACCELERATOR, Manifests

# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)
GIB = 2**30


def test_it_plans_with_one_gpu_a_worker(rendered: Callable[[str], Manifests]) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    cluster = rendered("mixed").cluster
    types = autoscaling_config._generate_available_node_types_from_ray_cr_spec(cluster)
    assert types["headgroup"]["resources"] == {"CPU": 0, "memory": 4 * GIB}
    assert types["t4"]["resources"] == {"CPU": 3, "GPU": 1, "memory": 10 * GIB}
    assert types["rtx4090"]["resources"] == {"CPU": 3, "GPU": 1, "memory": 16 * GIB}
    assert types["t4"]["labels"] == {ACCELERATOR: "T4"}
    assert types["rtx4090"]["labels"] == {ACCELERATOR: "GeForce-RTX-4090"}
    assert (types["t4"]["min_workers"], types["t4"]["max_workers"]) == (0, 2)
    assert (types["rtx4090"]["min_workers"], types["rtx4090"]["max_workers"]) == (2, 2)
