"""What a tier's gate admits; every setting changes live."""

from pydantic import Field

from serve_app.config.engine import Strict


class AdmissionConfig(Strict):
    """The gate in front of the engine of each replica."""

    max_running_sequences: int | None = Field(
        default=None,
        ge=1,
        description="Sequences that run at once; unset: derived from GPU and model.",
    )
    max_queued_requests: int | None = Field(
        default=None,
        ge=0,
        description="Requests that may wait; unset: as many as there are slots, or more "
        "where more drain within `max_wait_s`. Requests that retry when their Retry-After is over "
        "may exceed it by half.",
    )
    max_wait_s: float = Field(
        default=10.0,
        gt=0,
        description="Refuse a request whose first token is not expected within this time, from the "
        "slots that become free and the prompts that are prefilled before its own; of one that "
        "retries when its Retry-After is over, within twice this time.",
    )
    client_stall_s: float = Field(
        default=30.0,
        gt=0,
        description="How long a client may read nothing of a response that is ready; then its "
        "request ends. Its slots are free as soon as the engine has finished.",
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="Time in which a request's body must have arrived."
    )
    heartbeat_s: float = Field(
        default=2.0, gt=0, description="Time between SSE heartbeat comments while a request waits."
    )
    relay_after_s: float = Field(
        default=0.25,
        gt=0,
        description="How often the request at the head of the queue looks for capacity at another "
        "replica.",
    )
    lend_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Fraction of its slots that a replica lends to the other tier while no request "
        "of its own waits and its own `slo` is met; 0: none. Only to a tier with the same model, "
        "context and parsers.",
    )
    expected_prompt_tokens: int = Field(
        default=512, ge=1, description="Prompt length that the derived limits assume."
    )
    expected_new_tokens: int = Field(
        default=400,
        ge=1,
        description="Answer length that the derived limits assume until it is measured.",
    )
    min_stream_tokens_per_s: float = Field(
        default=8.0, gt=0, description="Speed that each stream keeps when all slots are busy."
    )
