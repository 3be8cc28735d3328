"""How a stream of `/v1` goes on when its replica is lost: one section of the `args` of web."""

from pydantic import Field

from serve_app.config.engine import Strict


class ReplayConfig(Strict):
    """What the gateway does for a generation whose replica or engine is lost."""

    max_times: int = Field(
        default=2,
        ge=0,
        description="So many times a generation is continued at another replica after it has lost "
        "its own; then its stream ends with an error. 0: never. A replica that hands a stream over "
        "before it stops does not count.",
    )
    max_hold_s: float = Field(
        default=60.0,
        gt=0,
        description="How long a stream is kept open with heartbeats while no replica is up that "
        "could continue it.",
    )
    max_journal_mib: int = Field(
        default=64,
        gt=0,
        description="Memory for what streams would need to go on, about 12 bytes a token. Streams "
        "that begin beyond it are not continued.",
    )
    client_gone_s: float = Field(
        default=30.0,
        gt=0,
        description="How long a stream with `x-tierserve-resumable: 1` goes on while no client "
        "reads it; then its work is cancelled.",
    )
    kept_s: float = Field(
        default=60.0,
        gt=0,
        description="How long the events of such a stream are kept after its end.",
    )
    max_kept_mib: int = Field(
        default=64,
        ge=0,
        description="Memory for the events of such streams, about 300 bytes a token. Beyond it "
        "those that ended first are forgotten, then the one that grows is resumable no more, and "
        "runs on. 0: no stream is resumable.",
    )
