"""Serve configs with a small random model: real engines with short starts and short steps."""

from typing import Any

from loadtest.servers.random_model import make_random_qwen2
from serve_app.core.tiers import Tier
from serve_app.local.profiles import load_profile

# Long enough for streams that outlive what a test does to them; fits the context of 4096.
MAX_NEW_TOKENS = 3500


def small_model_config(
    *, chat_replicas: int = 1, chat_slots: int = 8, lend_share: float = 0.0
) -> dict[str, Any]:
    """deploy/local-cpu.yaml with the random model in both tiers."""
    config = load_profile("local-cpu")
    model = str(make_random_qwen2())
    for app in config["applications"]:
        if app["name"] not in list(Tier):
            continue
        app["args"]["model"] = model
        (deployment,) = app["deployments"]
        slots = chat_slots if app["name"] == Tier.CHAT else 8
        deployment["user_config"] = {
            "max_new_tokens": MAX_NEW_TOKENS,
            "admission": {
                "max_running_sequences": slots,
                "max_queued_requests": 4,
                "lend_share": lend_share,
                # What earlier tests taught of the drain must not refuse before the line is full.
                "max_wait_s": 120,
            },
        }
        replicas = chat_replicas if app["name"] == Tier.CHAT else 1
        deployment["autoscaling_config"] |= {
            "min_replicas": replicas,
            "max_replicas": replicas,
            "downscale_delay_s": 0,
        }
    return config
