"""Where a request runs whose prompt another replica has read before; every setting changes live."""

from pydantic import Field

from serve_app.config.engine import Strict


class PrefixConfig(Strict):
    """Prefixes found again: a request goes on to the replica that has the begin of its prompt in
    its prefix cache, where that is sooner. See docs/prefixes.md."""

    forward: bool = Field(
        default=True,
        description="Whether such requests are forwarded, and replicas report to each other what "
        "they have. With one replica nothing happens.",
    )
    least_saved_ms: float = Field(
        default=20.0,
        ge=1,
        description="A request is forwarded where its prompt is read earlier by so much, at the "
        "measured speed of prefill. A prompt that is read faster is not looked at.",
    )
    most_load_ratio: float = Field(
        default=1.2,
        gt=1,
        description="Nothing is forwarded to a replica whose load, of the last half minute, is "
        "above so many times the mean of all replicas.",
    )
