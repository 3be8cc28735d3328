"""deploy/mixed.yaml as the tests deploy it, and where their replicas are placed."""

from typing import Any

import httpx

from serve_app.core.tiers import Tier
from serve_app.doctor.cluster_view import view_cluster
from serve_app.local.profiles import load_profile, with_http_port
from serve_app.local.serve_api import get_json
from tests.e2e.site import Site, wait_for

# The same in all tests, so that from one to the next only counts change, which is done live.
FAKE = {"start_s": 2.0, "speed": 0.5}
# Long enough to send streams to a replica that is no longer needed.
DOWNSCALE_DELAY_S = 15
# A machine that starts an engine is slow, and a head that is late must not look like none.
HEARTBEAT_S = 1.0
# A Python process that starts while others do; the first ones come with Serve itself.
REPLICAS_WITHIN_S = 90.0


def mixed_config(
    *,
    chat: tuple[int, int] = (1, 1),
    reasoning: tuple[int, int] = (1, 1),
    slots: int = 4,
    lend_share: float = 0.5,
    engine: dict[str, Any] | None = None,
    model: str = "smollm2",
) -> dict[str, Any]:
    """Least and most replicas of each tier, on the fake engine; chat's `engine` may be another."""
    config = load_profile("mixed")
    # A HAProxy for each node would need a machine for each.
    config |= {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1"}}
    fake = {"fake": FAKE}
    for app in config["applications"]:
        if app["name"] == "web":
            app["args"]["heartbeat_s"] = HEARTBEAT_S
        if app["name"] not in list(Tier):
            continue
        tier = Tier(app["name"])
        own = tier is Tier.CHAT and engine is not None
        app["args"] |= {"engine": engine if own else fake, "model": model if own else "smollm2"}
        least, most = chat if tier is Tier.CHAT else reasoning
        (deployment,) = app["deployments"]
        deployment["user_config"] = {
            "max_new_tokens": 3000,
            "admission": {
                "max_running_sequences": slots,
                "max_queued_requests": 128,
                # Nothing is refused here; five seconds of it are what may wait without a replica.
                "max_wait_s": 240,
                "lend_share": lend_share,
            },
            # Four slots leave no room for what chance adds to a load: here the mean decides.
            "slo": {"ttft_s": 20.0, "tpot_s": 2.0},
            "scaling": {"goodput": 0.6, "least_hold_s": 5.0, "most_hold_s": 5.0},
        }
        deployment["autoscaling_config"] |= {
            "min_replicas": least,
            "max_replicas": most,
            "downscale_delay_s": DOWNSCALE_DELAY_S,
        }
    return config


def deploy(site: Site, config: dict[str, Any]) -> None:
    """Without waiting for new replicas: not every one of them may find a GPU. Applications whose
    arguments have changed are taken away first: Serve would start their new replicas while the old
    ones hold the GPUs that they prefer."""
    deployed = deployed_args(site)
    replaced = {
        Tier(app["name"]): ready_names(site, Tier(app["name"]))
        for app in config["applications"]
        if app["name"] in deployed and deployed[app["name"]] != app["args"]
    }
    whole = with_http_port(config, site.cluster.port)
    if replaced:
        kept = [app for app in whole["applications"] if app["name"] not in replaced]
        site.cluster.api.deploy({**whole, "applications": kept})
        for tier, former in replaced.items():
            wait_for(
                lambda tier=tier, former=former: not former & ready_names(site, tier),
                f"the former replicas of {tier} are gone",
            )
        wait_for(lambda: not replaced.keys() & deployed_args(site).keys(), "Serve forgets them")
        # A replica that comes before would be placed as if they were taken.
        wait_for(lambda: gpus_counted_as_taken(site) == len(gpus(site)), "Ray counts their GPUs")
    site.cluster.api.deploy(whole)


def deployed_args(site: Site) -> dict[str, Any]:
    """The arguments of each tier's application, as Serve has them now."""
    applications = get_json(site.cluster.api, "/api/serve/applications/")["applications"]
    return {
        name: app["deployed_app_config"]["args"]
        for name, app in applications.items()
        if name in list(Tier) and app.get("deployed_app_config")
    }


def gpus_counted_as_taken(site: Site) -> float:
    """As Ray's nodes have reported last, some time after a replica has come or gone."""
    nodes = view_cluster(site.cluster.api).nodes
    return sum(node.gpus - node.gpus_free for node in nodes)


def await_replicas(site: Site, *, chat: int, reasoning: int) -> None:
    """Until this many are ready, and no other is left."""

    def complete() -> bool:
        counts = {tier: len(ready_names(site, tier)) for tier in Tier}
        return counts == {Tier.CHAT: chat, Tier.REASONING: reasoning}

    wait_for(complete, f"{chat} replicas of chat, {reasoning} of reasoning", REPLICAS_WITHIN_S)


def ready(site: Site, tier: Tier) -> list[dict[str, Any]]:
    return [replica for replica in site.tier(tier)["replicas"] if replica["ready"]]


def ready_names(site: Site, tier: Tier) -> set[str]:
    """None before the first deployment, when nothing answers."""
    try:
        return {replica["replica"] for replica in ready(site, tier)}
    except (httpx.HTTPError, ValueError, KeyError):
        return set()


def accelerator_types(site: Site, tier: Tier) -> list[str]:
    """The accelerator type of each ready replica."""
    return sorted(replica["accelerator_type"] for replica in ready(site, tier))


def gateway_labels(site: Site) -> list[dict[str, str]]:
    """The labels of the node of each replica of `web` that runs."""
    api = site.cluster.api
    web = get_json(api, "/api/serve/applications/")["applications"]["web"]["deployments"]["web"]
    labels = node_labels(site)
    return [labels[each["node_id"]] for each in web["replicas"] if each["state"] == "RUNNING"]


def node_labels(site: Site) -> dict[str, dict[str, str]]:
    """Of each node of Ray, by its id."""
    nodes = get_json(site.cluster.api, "/api/v0/nodes?detail=1")["data"]["result"]["result"]
    return {node["node_id"]: node["labels"] for node in nodes}


def gpus(site: Site) -> list[tuple[str, str]]:
    """Node and GPU of each ready replica, of both tiers."""
    return [
        (replica["node"], gpu)
        for tier in Tier
        for replica in ready(site, tier)
        for gpu in replica["gpu_ids"]
    ]
