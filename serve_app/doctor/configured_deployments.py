"""The deployments of a Serve config: the resources and labels that each requests, its tier's
settings, and the limits that it would have on each type of GPU."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.config.accelerator_costs import cost_on
from serve_app.config.tier import TierArgs, TierSettings, tier_args, tier_settings
from serve_app.core.admission.capacity import derive_limits
from serve_app.core.placement.hardware import hardware_for
from serve_app.core.placement.labels import UNLABELLED
from serve_app.core.placement.nodes import DeploymentRequest, NodeView
from serve_app.core.placement.token_cost import TokenCost
from serve_app.engine.models.fit_check import check_model, gpu_of_replica
from serve_app.engine.models.model_size import ModelFiles
from serve_app.nvidia import DriverGpu


@dataclass(frozen=True, slots=True)
class ConfiguredDeployment:
    """One deployment of the config. `tier` is None for those that are none, as `web`."""

    request: DeploymentRequest
    tier: TierArgs | None = None
    settings: TierSettings | None = None


@dataclass(frozen=True, slots=True)
class FitOnGpu:
    """A tier on one kind of GPU: the fit in a sentence, and the limits it would have."""

    fits: bool | None
    reason: str
    slots: int | None = None
    max_queued_requests: int | None = None
    token_cost: TokenCost | None = None


def configured_deployments(
    applications: Sequence[Mapping[str, Any]],
    *,
    placed: Mapping[str, int],
    targets: Mapping[str, int],
) -> Iterator[ConfiguredDeployment]:
    """Each deployment of the config. Raises ValueError for invalid settings."""
    for app in applications:
        args = app.get("args") or {}
        is_tier = "tier" in args
        for options in app.get("deployments") or []:
            name = options["name"]
            request = _request(options, placed.get(name, 0), targets.get(name))
            if is_tier:
                tier = tier_args(args)
                settings = tier_settings(tier.tier, options.get("user_config") or {})
                yield ConfiguredDeployment(request, tier, settings)
            else:
                yield ConfiguredDeployment(request)


def fit_on_gpus(
    deployment: ConfiguredDeployment,
    files: ModelFiles,
    nodes: Sequence[NodeView],
    gpus: Mapping[str, list[DriverGpu]],
) -> dict[str | None, FitOnGpu]:
    """The tier on each kind of GPU that the cluster has, by accelerator type."""
    found: dict[str | None, FitOnGpu] = {}
    for node in nodes:
        if node.gpus and node.accelerator_type not in found:
            gpu = next(iter(gpus.get(node.name, [])), None)
            found[node.accelerator_type] = _fit_on_gpu(
                deployment, files, node.accelerator_type, gpu
            )
    return found


def _request(deployment: Mapping[str, Any], placed: int, target: int | None) -> DeploymentRequest:
    options = deployment.get("ray_actor_options") or {}
    scaling = deployment.get("autoscaling_config")
    fixed = deployment.get("num_replicas")
    minimum = scaling.get("min_replicas", 1) if isinstance(scaling, Mapping) else fixed
    minimum = minimum if isinstance(minimum, int) else 1
    fallbacks = options.get("fallback_strategy") or []
    first = options.get("label_selector")
    selectors = [first, *(f.get("label_selector") for f in fallbacks)]
    return DeploymentRequest(
        name=deployment["name"],
        minimum=minimum,
        target=max(minimum, target or 0),
        placed=placed,
        cpus=options.get("num_cpus", 1.0),
        gpus=options.get("num_gpus", 0.0),
        memory_bytes=options.get("memory", 0.0) or 0.0,
        selectors=tuple(selector for selector in selectors if selector),
    )


def _fit_on_gpu(
    deployment: ConfiguredDeployment,
    files: ModelFiles,
    accelerator_type: str | None,
    gpu: DriverGpu | None,
) -> FitOnGpu:
    assert deployment.tier is not None and deployment.settings is not None  # noqa: PT018 - tiers have both
    hardware = hardware_for(accelerator_type or UNLABELLED)
    try:
        checked = check_model(deployment.tier.engine, files, gpu_of_replica(hardware, gpu))
    except ValueError as error:
        return FitOnGpu(False, str(error))
    if checked is None or checked.fit.kv_tokens is None:
        reason = checked.fit.reason if checked else "the model's config.json has no sizes"
        return FitOnGpu(None, reason)
    admission = deployment.settings.admission
    limits = derive_limits(
        hardware,
        checked.shape,
        kv_tokens=checked.fit.kv_tokens,
        prompt_tokens=admission.expected_prompt_tokens,
        max_new_tokens=deployment.settings.max_new_tokens,
        expected_new_tokens=min(admission.expected_new_tokens, deployment.settings.max_new_tokens),
        min_stream_tokens_per_s=admission.min_stream_tokens_per_s,
        max_wait_s=admission.max_wait_s,
    )
    queued = admission.max_queued_requests
    return FitOnGpu(
        checked.fit.fits,
        checked.fit.reason,
        slots=admission.max_running_sequences or limits.slots,
        max_queued_requests=limits.max_queued_requests if queued is None else queued,
        token_cost=cost_on(accelerator_type, checked.shape, deployment.tier, deployment.settings)
        if accelerator_type
        else None,
    )
