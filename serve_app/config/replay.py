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
