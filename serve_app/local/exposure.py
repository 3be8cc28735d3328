"""Where a local service listens and who may ask it: never open to other machines by mistake."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve_app.local import profiles
from serve_app.local.ports import free_ports

DATABASE_VARIABLE = "TIERSERVE_ACCESS__DATABASE"
ANONYMOUS_VARIABLE = "TIERSERVE_ACCESS__ALLOW_ANONYMOUS"
LISTENER_VARIABLE = "TIERSERVE_ACCESS__STATUS_LISTENER"
LOOPBACK = "127.0.0.1"


class OpenServiceError(ValueError):
    """It would serve other machines without asking for a key; the message has the ways out."""


@dataclass(frozen=True, slots=True)
class AccessChoice:
    """What the command line says: `keys` is a path or URL, None without `--keys`; `host` None:
    the profile's."""

    host: str | None = None
    keys: str | None = None
    allow_anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Exposure:
    """`database` of the keys is None where they are off; `status_address` is `host:port` of the
    operators' pages where they need no key there. `narrowed`: a profile would listen everywhere,
    and nobody has said that it may."""

    host: str
    database: str | None = None
    status_address: str | None = None
    allow_anonymous: bool = False
    narrowed: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def exposure_of(
    choice: AccessChoice,
    profile: str,
    config: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
) -> Exposure:
    """Raises OpenServiceError for an address beyond this machine that somebody has chosen, where
    neither keys are on nor anonymous requests allowed."""
    database = choice.keys or environment.get(DATABASE_VARIABLE) or _configured(config, "database")
    host = choice.host or profiles.http_host(config)
    narrowed = False
    if database is None and not choice.allow_anonymous and not is_loopback(host):
        narrowed = choice.host is None and profile in profiles.PROFILES
        if not narrowed:
            raise OpenServiceError(_open_service(host))
        host = LOOPBACK
    if database is None:
        return Exposure(host, allow_anonymous=choice.allow_anonymous, narrowed=narrowed)
    database = database if "://" in database else str(Path(database).expanduser().resolve())
    status_address = (
        environment.get(LISTENER_VARIABLE)
        or _configured(config, "status_listener")
        or f"{LOOPBACK}:{free_ports(1)[0]}"
    )
    added = {DATABASE_VARIABLE: database, LISTENER_VARIABLE: status_address}
    if choice.allow_anonymous:
        added[ANONYMOUS_VARIABLE] = "true"
    return Exposure(host, database, status_address, choice.allow_anonymous, environment=added)


def count_keys(database: str) -> int:
    """How many keys there are. Raises KeyStoreError."""
    from serve_app.access.database import open_database
    from serve_app.access.key_store import KeyStore

    opened = open_database(database, create=True)
    try:
        return len(KeyStore(opened).stored())
    finally:
        opened.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _configured(config: Mapping[str, Any], name: str) -> str | None:
    """A setting of `args.access`, of the first application that has it."""
    for app in config["applications"]:
        value = ((app.get("args") or {}).get("access") or {}).get(name)
        if value:
            return str(value)
    return None


def _open_service(host: str) -> str:
    return (
        f"This would serve whoever reaches {host}, without asking for a key. Give everybody a key: "
        "add --keys (make serve KEYS=1; docs/access.md). Or, where only friends reach this "
        "machine, say so: --allow-anonymous."
    )
