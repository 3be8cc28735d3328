"""Rules for serveConfigV2: the profile's own file, with keys that Ray and the application know."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pydantic
import yaml

from serve_app.config.tier import WebArgs, tier_args, tier_settings
from serve_app.core.tiers import Tier
from tests.k8s.manifests import PROFILE_OF, REPO, Manifests, ray_container

# Ray's default, above which a replica's queue is unseen by the autoscaler.
RAY_MAX_ONGOING = 5
# Free-form for Ray; the application checks the first two, and so does a rule here.
_FREE = ("args", "user_config", "policy_kwargs", "env_vars", "label_selector", "resources")


def serve_config_is_that_of_serve_run(m: Manifests) -> Iterator[str]:
    """One Serve config serves `serve run` and the cluster; the demo differs in its host only."""
    profile = PROFILE_OF[m.overlay]
    expected = yaml.safe_load((REPO / "deploy" / f"{profile}.yaml").read_text())
    if m.overlay == "cpu-demo":
        expected["http_options"]["host"] = "0.0.0.0"
    if m.serve_config != expected:
        yield f"serveConfigV2 is not deploy/{profile}.yaml"


def serve_keys_are_known(m: Manifests) -> Iterator[str]:
    """Ray takes unknown keys in a Serve config without a word (trap 6)."""
    from ray.serve.schema import ServeDeploySchema

    yield from _unknown_keys(ServeDeploySchema, m.serve_config, "")
    for application in m.serve_config["applications"]:
        try:
            _validate_settings(application)
        except ValueError as fault:
            yield f"{application['name']}: {fault}"


def ingress_sets_max_ongoing_requests(m: Manifests) -> Iterator[str]:
    """The default of 5 queues requests where the scaling law does not see them (trap 5)."""
    for _, deployment in m.deployments():
        if deployment.get("max_ongoing_requests", RAY_MAX_ONGOING) <= RAY_MAX_ONGOING:
            yield f"{deployment['name']}: max_ongoing_requests is missing or at most 5"


def serve_listens_where_the_service_leads(m: Manifests) -> Iterator[str]:
    """127.0.0.1 in a Pod is out of the Service's reach, though probes from inside succeed."""
    options = m.serve_config["http_options"]
    if options["host"] != "0.0.0.0":
        yield f"Serve listens on {options['host']}"
    for group in m.groups:
        ports = {p["name"]: p["containerPort"] for p in ray_container(group).get("ports", [])}
        if ports.get("serve") != options["port"]:
            yield f"no port named serve with {options['port']}: {ports}"


def _validate_settings(application: Mapping[str, Any]) -> None:
    args = application.get("args", {})
    if "tier" not in args:
        WebArgs(**args)
        return
    tier_args(args)
    for deployment in application["deployments"]:
        tier_settings(Tier(args["tier"]), deployment.get("user_config", {}))


def _unknown_keys(model: type[pydantic.BaseModel], value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        if key not in model.model_fields:
            yield f"{path}{key}: Ray knows no such key"
            continue
        if key in _FREE:
            continue
        for part in inner if isinstance(inner, list) else [inner]:
            for nested in _models(model.model_fields[key].annotation):
                yield from _unknown_keys(nested, part, f"{path}{key}.")


def _models(annotation: Any) -> list[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
