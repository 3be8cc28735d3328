"""`tierserve keys`: a new secret goes to standard output, alone; what people read beside it goes to
standard error."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from serve_app.access.credentials import Secret, load_pepper
from serve_app.access.database import (
    DATABASE_VARIABLE,
    Database,
    default_database,
    open_database,
)
from serve_app.access.key_store import KeyStore, StoredKey
from serve_app.access.usage import UsageRow, read_usage, write_csv
from serve_app.core.access.access_key import AccessKey, KeyLimits, Priority

_LIMITS = ("max_concurrent", "requests_per_minute", "tokens_per_minute", "tokens_per_day")


def run(options: argparse.Namespace) -> int:
    """One command of `tierserve keys`. Raises KeyStoreError, whose message says what to do."""
    named = options.database or default_database()
    database = open_database(named, create=options.action == "add")
    try:
        _ACTIONS[options.action](options, database)
    finally:
        database.close()
    return 0


def _add(options: argparse.Namespace, database: Database) -> None:
    key = _with_options(AccessKey(options.name), options)
    store = KeyStore(database, load_pepper(database.address, create=True))
    _show_secret(options, database, key, store.add(key), "added")


def _rotate(options: argparse.Namespace, database: Database) -> None:
    store = KeyStore(database, load_pepper(database.address))
    secret = store.rotate(options.name, options.grace)
    _show_secret(options, database, store.get(options.name), secret, "has a new secret")


def _change(options: argparse.Namespace, database: Database) -> None:
    store = KeyStore(database)
    key = _with_options(store.get(options.name), options)
    store.change(key)
    _confirm(options, _key_as_json(key), f"{key.name} is changed: {_rights(key)}.")


def _revoke(options: argparse.Namespace, database: Database) -> None:
    KeyStore(database).revoke(options.name)
    _confirm(
        options, {"name": options.name, "revoked": True}, f"{options.name} is no key any more."
    )


def _list(options: argparse.Namespace, database: Database) -> None:
    stored = KeyStore(database).stored()
    if options.json:
        _print_json([_stored_as_json(each) for each in stored])
        return
    table = Table()
    for column in ("key", "may use", "limits", "valid until", "ids"):
        table.add_column(column, overflow="fold")
    for each in stored:
        key = each.key
        expires = "-" if key.expires_at_s is None else _day_of(key.expires_at_s)
        if key.expired(time.time()):
            expires = f"ended {expires}"
        table.add_row(
            key.name,
            _tiers(key),
            _limits(key.limits).replace(", ", "\n"),
            expires,
            "\n".join(each.key_ids) or "-",
        )
    Console().print(table)


def _usage(options: argparse.Namespace, database: Database) -> None:
    rows = read_usage(database, since_day=options.since, key=options.name)
    if options.json:
        _print_json([row.as_json() for row in rows])
    elif options.csv:
        write_csv(rows, sys.stdout)
    else:
        Console().print(_usage_table(rows, options.since))


_ACTIONS: dict[str, Callable[[argparse.Namespace, Database], None]] = {
    "add": _add,
    "list": _list,
    "change": _change,
    "revoke": _revoke,
    "rotate": _rotate,
    "usage": _usage,
}


def _with_options(key: AccessKey, options: argparse.Namespace) -> AccessKey:
    """What is not given stays; `none` takes a limit away."""
    given = {name: getattr(options, name) for name in _LIMITS}
    limits = {
        name: None if value == "none" else value
        for name, value in given.items()
        if value is not None
    }
    expires_at_s = key.expires_at_s
    if options.expires is not None:
        expires_at_s = None if options.expires == "none" else time.time() + options.expires
    rights: dict[str, Any] = {
        name: value
        for name in ("tiers", "weight", "admin")
        if (value := getattr(options, name)) is not None
    }
    if options.priority is not None:
        rights["priority"] = Priority(options.priority)
    return replace(key, limits=replace(key.limits, **limits), expires_at_s=expires_at_s, **rights)


def _show_secret(
    options: argparse.Namespace, database: Database, key: AccessKey, secret: Secret, what: str
) -> None:
    if options.json:
        _print_json({**_key_as_json(key), "key": secret.reveal()})
        return
    sys.stdout.write(secret.reveal() + "\n")
    sys.stdout.flush()
    _say(f"{key.name} {what}: {_rights(key)}. The key is shown this once.")
    if not options.database and not os.environ.get(DATABASE_VARIABLE):
        _say(f"It is in {database.address}; `tierserve serve --keys` asks for it.")


def _confirm(options: argparse.Namespace, as_json: dict[str, Any], sentence: str) -> None:
    if options.json:
        _print_json(as_json)
    else:
        _say(sentence)


def _say(sentence: str) -> None:
    Console(stderr=True).print(sentence, highlight=False, markup=False, soft_wrap=True)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _rights(key: AccessKey) -> str:
    until = () if key.expires_at_s is None else (f"until {_day_of(key.expires_at_s)}",)
    return ", ".join((_tiers(key), _limits(key.limits), *until))


def _tiers(key: AccessKey) -> str:
    parts = [" and ".join(sorted(key.tiers))]
    if key.weight != 1:
        parts.append(f"weight {key.weight:g}")
    if key.priority is not Priority.INTERACTIVE:
        parts.append(key.priority.value)
    if key.admin:
        parts.append("admin")
    return ", ".join(parts)


def _limits(limits: KeyLimits) -> str:
    texts = (
        (limits.max_concurrent, "at a time"),
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.tokens_per_day, "tokens/day"),
    )
    return ", ".join(f"{limit:,} {what}" for limit, what in texts if limit) or "no limits"


def _day_of(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC"


def _key_as_json(key: AccessKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "tiers": sorted(key.tiers),
        "weight": key.weight,
        "priority": key.priority.value,
        **{name: getattr(key.limits, name) for name in _LIMITS},
        "admin": key.admin,
        "expires_at_s": key.expires_at_s,
    }


def _stored_as_json(stored: StoredKey) -> dict[str, Any]:
    return {
        **_key_as_json(stored.key),
        "key_ids": list(stored.key_ids),
        "created_at_s": stored.created_at_s,
    }


def _usage_table(rows: Sequence[UsageRow], since: str) -> Table:
    """One model is named below the table; several have a column."""
    models = {row.model for row in rows}
    what = f"of {models.pop()} " if len(models) == 1 else ""
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        caption=f"UTC days since {since}; tokens {what}in prompts, reasoning and answers",
        caption_justify="left",
    )
    table.add_column("day", no_wrap=True)
    for name in ("key", "tier", *(("model",) if models else ())):
        table.add_column(name, overflow="fold")
    for name in ("requests", "refused", "prompt", "reasoning", "answer", "GPU"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        counts = (
            row.requests,
            row.refused,
            row.prompt_tokens,
            row.reasoning_tokens,
            row.answer_tokens,
        )
        numbers = (f"{count:,}" for count in counts)
        labels = (row.day, row.key, row.tier, *((row.model,) if models else ()))
        table.add_row(*labels, *numbers, _gpu_time(row.gpu_s))
    return table


def _gpu_time(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 3600:,.2f} h"
