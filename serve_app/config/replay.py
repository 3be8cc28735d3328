"""How a stream goes on when its replica or its client is lost: sections of `args`."""

from pydantic import Field

from serve_app.config.engine import Strict


class ResumableConfig(Strict):
    """Streams with `x-tierserve-resumable: 1`, whose clients may come back to them."""

    client_gone_s: float = Field(
        default=30.0,
        gt=0,
        description="How long a stream with `x-tierserve-resumable: 1` goes on while no client "
        "reads it; then its work is cancelled.",
    )
    max_away: int = Field(
        default=32,
        ge=0,
        description="How many such streams of one key go on while no client reads them, in one "
        "process; one more ends with its client. All callers without a key count as one.",
    )
    kept_s: float = Field(
        default=60.0,
        gt=0,
        description="How long the events of such a stream are kept after its end.",
    )
    max_kept_mib: int = Field(
        default=64,
        ge=0,
        description="Memory of one process for the events of such streams, about 300 bytes a "
        "token. Beyond it the key that has most of it makes room: its streams that ended first are "
        "forgotten, then one that runs is resumable no more, and runs on. 0: no stream is "
        "resumable.",
    )


class ReplayConfig(ResumableConfig):
    """What the gateway does for a generation whose replica, engine or client is lost."""

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
