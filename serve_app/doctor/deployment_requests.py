"""What a Serve config asks for: resources and labels of each deployment, and its tier's limits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.config.accelerator_costs import cost_on
from serve_app.config.tier import TierArgs, TierSettings, tier_args, tier_settings
from serve_app.core.admission.capacity import derive_limits
from serve_app.core.placement.hardware import hardware_for
from serve_app.core.placement.labels import UNLABELLED
from serve_app.core.placement.nodes import NodeView, TierWish
from serve_app.core.placement.token_cost import TokenCost
from serve_app.engine.models.fit_check import card_of_replica, check_model
from serve_app.engine.models.model_size import ModelFiles
from serve_app.nvidia import DriverCard


@dataclass(frozen=True, slots=True)
class DeploymentAsked:
    """One deployment of the config. `tier` is None for those that are none, as `web`."""

    wish: TierWish
    tier: TierArgs | None = None
    settings: TierSettings | None = None


@dataclass(frozen=True, slots=True)
class OnCard:
    """A tier on one kind of card: the fit in a sentence, and the limits it would have."""

    fits: bool | None
    reason: str
    slots: int | None = None
    max_queued_requests: int | None = None
    token_cost: TokenCost | None = None


def deployments_asked(
    applications: Sequence[Mapping[str, Any]],
    *,
    placed: Mapping[str, int],
    targets: Mapping[str, int],
) -> Iterator[DeploymentAsked]:
    """Each deployment of the config. Raises ValueError for settings that are none."""
    for app in applications:
        args = app.get("args") or {}
        is_tier = "tier" in args
        for deployment in app.get("deployments") or []:
            name = deployment["name"]
            wish = _wish(deployment, placed.get(name, 0), targets.get(name))
            if is_tier:
                tier = tier_args(args)
                settings = tier_settings(tier.tier, deployment.get("user_config") or {})
                yield DeploymentAsked(wish, tier, settings)
            else:
                yield DeploymentAsked(wish)


def on_cards(
    asked: DeploymentAsked,
    files: ModelFiles,
    nodes: Sequence[NodeView],
    cards: Mapping[str, list[DriverCard]],
) -> dict[str | None, OnCard]:
    """The tier on each kind of card that the cluster has, by accelerator type."""
    found: dict[str | None, OnCard] = {}
    for node in nodes:
        if node.gpus and node.accelerator_type not in found:
            card = next(iter(cards.get(node.name, [])), None)
            found[node.accelerator_type] = _on_card(asked, files, node.accelerator_type, card)
    return found


def _wish(deployment: Mapping[str, Any], placed: int, target: int | None) -> TierWish:
    options = deployment.get("ray_actor_options") or {}
    scaling = deployment.get("autoscaling_config")
    fixed = deployment.get("num_replicas")
    minimum = scaling.get("min_replicas", 1) if isinstance(scaling, Mapping) else fixed
    minimum = minimum if isinstance(minimum, int) else 1
    fallbacks = options.get("fallback_strategy") or []
    first = options.get("label_selector")
    selectors = [first, *(f.get("label_selector") for f in fallbacks)]
    return TierWish(
        name=deployment["name"],
        minimum=minimum,
        target=max(minimum, target or 0),
        placed=placed,
        cpus=options.get("num_cpus", 1.0),
        gpus=options.get("num_gpus", 0.0),
        memory_bytes=options.get("memory", 0.0) or 0.0,
        selectors=tuple(selector for selector in selectors if selector),
    )


def _on_card(
    asked: DeploymentAsked, files: ModelFiles, accelerator_type: str | None, card: DriverCard | None
) -> OnCard:
    assert asked.tier is not None and asked.settings is not None  # noqa: PT018 - tiers have both
    hardware = hardware_for(accelerator_type or UNLABELLED)
    try:
        checked = check_model(asked.tier.engine, files, card_of_replica(hardware, card))
    except ValueError as fault:
        return OnCard(False, str(fault))
    if checked is None or checked.fit.kv_tokens is None:
        reason = checked.fit.reason if checked else "the model's config.json tells no sizes"
        return OnCard(None, reason)
    admission = asked.settings.admission
    limits = derive_limits(
        hardware,
        checked.shape,
        kv_tokens=checked.fit.kv_tokens,
        prompt_tokens=admission.expected_prompt_tokens,
        max_new_tokens=asked.settings.max_new_tokens,
        expected_new_tokens=min(admission.expected_new_tokens, asked.settings.max_new_tokens),
        min_stream_tokens_per_s=admission.min_stream_tokens_per_s,
        max_wait_s=admission.max_wait_s,
    )
    queued = admission.max_queued_requests
    return OnCard(
        checked.fit.fits,
        checked.fit.reason,
        slots=admission.max_running_sequences or limits.slots,
        max_queued_requests=limits.max_queued_requests if queued is None else queued,
        token_cost=cost_on(accelerator_type, checked.shape, asked.tier, asked.settings)
        if accelerator_type
        else None,
    )
