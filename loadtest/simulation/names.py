"""The policies by the names that the command line knows."""

POLICIES = (
    "ours",
    "ray-default",
    "waiting-threshold",
    "llm-d",
    "aibrix",
    "constant",
    "clairvoyant",
)
