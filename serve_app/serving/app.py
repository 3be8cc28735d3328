"""Composition root: what each application of the Serve config file is made of."""

import os
from typing import Any

from ray import serve
from ray.serve import Application

from serve_app.config.tier import WebArgs, refuse_unknown_variables, tier_args
from serve_app.serving.replica import TierReplica
from serve_app.serving.web import Web


def build_tier(args: dict[str, Any]) -> Application:
    """One tier: `import_path` of the applications `chat` and `reasoning`."""
    validated = tier_args(args)
    deployment = serve.deployment(name=validated.tier.value)(serve.ingress()(TierReplica))
    return deployment.bind(validated)


def build_web(args: dict[str, Any]) -> Application:
    """The unified `/v1`, status and health: `import_path` of the application `web`."""
    refuse_unknown_variables(os.environ)
    return serve.deployment(name="web")(serve.ingress()(Web)).bind(WebArgs(**args))
