"""What Ray's own autoscaler makes of the groups: the resources and labels that it plans with."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.manifests import ACCELERATOR, Manifests

# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)
GIB = 2**30
NO_GATEWAY = {"tierserve/gateway": "elsewhere"}


def test_it_plans_with_one_gpu_a_worker(rendered: Callable[[str], Manifests]) -> None:
    types = node_types(rendered("mixed"))
    assert types["headgroup"]["resources"] == {"CPU": 0, "memory": 4 * GIB}
    assert types["t4"]["resources"] == {"CPU": 3, "GPU": 1, "memory": 10 * GIB}
    assert types["rtx4090"]["resources"] == {"CPU": 3, "GPU": 1, "memory": 16 * GIB}
    assert types["web"]["resources"] == {"CPU": 1, "memory": 2 * GIB}
    assert types["t4"]["labels"] == {ACCELERATOR: "T4", **NO_GATEWAY}
    assert types["rtx4090"]["labels"] == {ACCELERATOR: "GeForce-RTX-4090", **NO_GATEWAY}
    assert (types["t4"]["min_workers"], types["t4"]["max_workers"]) == (0, 2)
    assert (types["rtx4090"]["min_workers"], types["rtx4090"]["max_workers"]) == (2, 2)
    assert (types["web"]["min_workers"], types["web"]["max_workers"]) == (1, 1)


@pytest.mark.parametrize(("labelled", "ordered"), [(True, {}), (False, {"t4": 1})])
def test_the_gateway_orders_no_gpu(
    rendered: Callable[[str], Manifests], labelled: bool, ordered: dict[str, int]
) -> None:
    """However many replicas of `web` wait, of which its own Pod has room for ten. Without the label
    on the groups with GPUs they would get some."""
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    configs = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=of["min_workers"],
            max_worker_nodes=of["max_workers"],
            resources=of["resources"],
            labels={n: v for n, v in of["labels"].items() if labelled or n not in NO_GATEWAY},
        )
        for name, of in node_types(rendered("mixed")).items()
        if name != "headgroup"
    }
    waiting = ResourceRequestUtil.group_by_count([gateway(rendered("mixed"))] * 80)
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True, node_type_configs=configs, resource_requests=waiting
        )
    )
    launched = {each.instance_type: each.count for each in reply.to_launch}
    assert launched == {"rtx4090": 2, "web": 1, **ordered}


def node_types(m: Manifests) -> dict[str, Any]:
    """What the autoscaler reads from the RayCluster."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    return autoscaling_config._generate_available_node_types_from_ray_cr_spec(m.cluster)


def gateway(m: Manifests) -> Any:
    """One replica of `web` of the Serve config, as the autoscaler is asked for it."""
    from ray.autoscaler.v2.scheduler import LabelSelectorOperator  # pyright: ignore
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    (options,) = (d["ray_actor_options"] for a, d in m.deployments() if a["name"] == "web")
    gpus, elsewhere = ["T4", "GeForce-RTX-4090"], "tierserve/gateway"
    assert options["label_selector"] == {
        ACCELERATOR: "!in(T4,GeForce-RTX-4090)",
        elsewhere: "!elsewhere",
    }
    assert options["fallback_strategy"] == [
        {"label_selector": {ACCELERATOR: "in(T4,GeForce-RTX-4090)", elsewhere: "!elsewhere"}}
    ]
    one_of, none_of = (
        LabelSelectorOperator.LABEL_OPERATOR_IN,
        LabelSelectorOperator.LABEL_OPERATOR_NOT_IN,
    )
    not_elsewhere = (elsewhere, none_of, ["elsewhere"])
    first = [(ACCELERATOR, none_of, gpus), not_elsewhere]
    fallback = [(ACCELERATOR, one_of, gpus), not_elsewhere]
    return ResourceRequestUtil.make({"CPU": options["num_cpus"]}, label_selectors=[first, fallback])
