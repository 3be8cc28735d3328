"""`GET /v1/models`: the tiers as models, each with what a client must know before it asks."""

from collections.abc import Mapping, Sequence
from typing import Any


def list_models(described: Sequence[Mapping[str, Any]], *, created_s: int) -> list[dict[str, Any]]:
    """`described` has the entries of `/api/tiers`. The served model's own name stands for the first
    tier. null is what no replica has said yet."""
    models = [_model(tier["tier"], tier, created_s) for tier in described]
    first = next(iter(described), None)
    served = next((tier["model"] for tier in described if tier["model"]), None)
    if first is not None and served is not None and served not in {each["id"] for each in models}:
        models.append(_model(served, first, created_s))
    return models


def _model(name: str, tier: Mapping[str, Any], created_s: int) -> dict[str, Any]:
    settings: Mapping[str, Any] = tier["settings"] or {}
    when_above = (settings.get("limits") or {}).get("when_above") or "lower"
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "tierserve",
        # vLLM's names for the model behind, and for the context of prompt and answer in tokens.
        "root": tier["model"],
        "max_model_len": tier["max_model_len"],
        "limits": {
            "tier": tier["tier"],
            "max_new_tokens": tier["max_new_tokens"],
            "when_above": when_above if settings else None,
            "max_body_bytes": settings.get("max_body_bytes"),
            # Of all replicas that run now.
            "slots": tier["slots"],
            "max_queued_requests": tier["max_queued_requests"],
        },
    }
