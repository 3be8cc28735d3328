"""Sampling of a request: what it sets itself, then its task's values, then the tier's."""

from collections.abc import Mapping
from typing import Any

from serve_app.config.answers import SamplingConfig, TaskConfig
from serve_app.config.tier import TierSettings
from serve_app.errors import invalid

TASK = "task"
# At 1.0 and above R1 distills write without end (the makers recommend 0.5 to 0.7).
HOT = 1.0


def take_task(payload: dict[str, Any], tasks: Mapping[str, TaskConfig]) -> TaskConfig:
    """The task that the request names, taken out of it. Raises RequestError for one that the tier
    does not know."""
    name = payload.pop(TASK, None)
    if name is None:
        return TaskConfig()
    if not isinstance(name, str) or name not in tasks:
        known = ", ".join(tasks) or "none"
        raise invalid(f"`{TASK}` must be one of the tier's tasks: {known}.", param=TASK)
    return tasks[name]


def fill_sampling(
    payload: dict[str, Any], task: TaskConfig, settings: TierSettings, known: frozenset[str] | None
) -> None:
    """Fill in what the request leaves out and the endpoint's schema knows."""
    chosen = task.model_dump(include={"temperature", "top_p"}, exclude_none=True)
    for field in SamplingConfig.model_fields:
        value = chosen.get(field, getattr(settings.sampling, field))
        if value is not None and payload.get(field) is None and (known is None or field in known):
            payload[field] = value


def heat_warning(payload: Mapping[str, Any]) -> str | None:
    """What a client is told that asks an R1 model for a temperature at which it does not end."""
    temperature = payload.get("temperature")
    if not isinstance(temperature, int | float) or temperature < HOT:
        return None
    return (
        f"at temperature {temperature} this model's answers may not end; its makers recommend "
        "0.5 to 0.7"
    )
