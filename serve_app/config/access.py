"""API keys: one section of the `args` of web and of each tier, the same in all three."""

from typing import Literal

from pydantic import Field, field_validator

from serve_app.config.engine import Strict

# Of the answers that Prometheus and operators read, where they have a listener of their own.
_MOST_PORT = 65_535


class AccessConfig(Strict):
    """Who may use the service. Set it by the environment for web and both tiers at once:
    `TIERSERVE_ACCESS__DATABASE=/var/lib/tierserve/keys.db`."""

    database: str | None = Field(
        default=None,
        description="Where the keys are and what was used of them: the path of a SQLite file on "
        "the head node, or a `postgresql://` URL. Unset: no keys, and whoever reaches the port is "
        "served. `tierserve keys` makes them (docs/access.md).",
    )
    service: str | None = Field(
        default=None,
        description="Name of the service, where several clusters of it have one database of keys, "
        "as during an upgrade that starts a second cluster: the ledger then goes to the one that "
        "has requests. Unset: a second service on the database is refused while the first runs.",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Serve requests without a key as well, without limits and in one fair share. A "
        "wrong key is refused all the same.",
    )
    on_ledger_loss: Literal["refuse", "open"] = Field(
        default="refuse",
        description="While the ledger of quotas does not answer: `refuse` what a replica's leases "
        "do not cover with 503, or serve it `open`, without limits, and draw it from the quotas "
        "once the ledger is back.",
    )
    status_listener: str | None = Field(
        default=None,
        description="`host:port` on which web answers `/metrics`, `/api/tiers` and `/v1/models` "
        "without a key, for operators; at the service's own port the first two need an admin key. "
        "Unset: there only. Without `database`: not used.",
    )
    report_period_s: float = Field(
        default=0.5,
        gt=0,
        le=2,
        description="How often a replica reports what was used, and asks whether keys have changed."
        " Changes are live within twice this.",
    )
    acknowledge_within_s: float = Field(
        default=1.0,
        gt=0,
        description="How long a report may take; then the ledger counts as lost. The first byte of "
        "an answer waits for it where what it may use was not prepaid.",
    )

    @field_validator("status_listener")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None:
            address_of(value)
        return value


def address_of(listener: str) -> tuple[str, int]:
    """Host and port of `host:port`, an IPv6 address in brackets. Raises ValueError."""
    host, _, port = listener.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) <= _MOST_PORT:
        raise ValueError(f"`{listener}` is no `host:port`, such as 127.0.0.1:9464")
    return host.strip("[]"), int(port)
