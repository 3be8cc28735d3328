"""The options of `tierserve keys`; key_commands.py does what they ask for.

Nothing here imports the database's packages: building the command line takes no time.
"""

import argparse
import re
from datetime import UTC, date, datetime, timedelta

from serve_app.core.access.access_key import Priority
from serve_app.core.tiers import Tier

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
# Ten years: an end that is further away is a slip of the finger.
_LONGEST_S = 3653 * 86_400
_DESCRIPTION = """\
API keys of the service, with what each may use, and what it has used. They lie in
a SQLite file or in PostgreSQL, and a change is live within two seconds on a
service that runs with `tierserve serve --keys`. It may also be stopped.
"""
_EXAMPLES = """\
examples:
  # a key for everything; it is printed once, alone on standard output
  %(prog)s add ada
  # a key of the chat tier alone, with quotas, for 90 days
  %(prog)s add bot --tiers chat --requests-per-minute 60 --tokens-per-day 500000 --expires 90d
  # into a secret store, without passing the screen
  %(prog)s add ci | secret-tool store --label ci service tierserve
  # another limit, live; `none` takes it away
  %(prog)s change bot --tokens-per-day 1000000 --max-concurrent none
  # a new secret; the old one is valid for another hour
  %(prog)s rotate ada --grace 1h
  %(prog)s revoke bot
  # what was used in the last 30 days
  %(prog)s usage --since 30d --csv > usage.csv

exit status: 0 done, 1 it failed (the message says what to do), 2 bad usage.
"""
_NO_LIMIT = "none"


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions and examples as they are written, and room for the longest command's name."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def add_keys(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`keys` with its commands, below the command line's."""
    keys = commands.add_parser(
        "keys",
        help="API keys: add, list, change, revoke, rotate, usage",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=_HelpFormatter,
    )
    actions = keys.add_subparsers(
        dest="action", required=True, metavar="COMMAND", title="commands (each has a --help)"
    )
    _add_add(actions)
    _add_action(actions, "list", "all keys with their limits; never their secrets")
    change = _add_action(actions, "change", "other limits or rights, live; the secret stays")
    change.add_argument("name", metavar="NAME")
    _add_rights(change, default="as it was")
    admin = change.add_mutually_exclusive_group()
    admin.add_argument("--admin", action="store_true", default=None, help="make it an admin key")
    admin.add_argument(
        "--no-admin", dest="admin", action="store_false", help="make it an ordinary key"
    )
    revoke = _add_action(actions, "revoke", "end a key; what it has used stays in `usage`")
    revoke.add_argument("name", metavar="NAME")
    rotate = _add_action(actions, "rotate", "a new secret for a key, printed once; quotas stay")
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument(
        "--grace",
        type=_duration_s,
        default=0.0,
        metavar="TIME",
        help="how long the old secret stays valid, as 1h (default: not at all)",
    )
    _add_usage(actions)


def _add_add(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    add = _add_action(
        actions, "add", "make a key; it is printed once, and nothing can show it again"
    )
    add.add_argument("name", metavar="NAME", help="what logs, metrics and usage show of it")
    _add_rights(add, default="none")
    add.add_argument(
        "--admin",
        action="store_true",
        help="may read everybody's usage, /api/tiers and /metrics (default: its own usage)",
    )


def _add_rights(action: argparse.ArgumentParser, *, default: str) -> None:
    is_new = default == "none"
    add = action.add_argument
    add(
        "--tiers",
        type=_tiers,
        metavar="TIERS",
        help=f"{','.join(Tier)} or one of them (default: {'both' if is_new else default})",
    )
    add(
        "--weight",
        type=float,
        metavar="W",
        help="share of the GPUs beside other keys that wait; 2 gets twice that of 1 (default: "
        f"{1 if is_new else default})",
    )
    add(
        "--priority",
        choices=[each.value for each in Priority],
        metavar="CLASS",
        help=f"{' or '.join(Priority)}; the first goes before the second (default: "
        f"{Priority.INTERACTIVE if is_new else default})",
    )
    for option, what in (
        ("--max-concurrent", "requests at a time"),
        ("--requests-per-minute", "requests a minute, refilled continuously"),
        ("--tokens-per-minute", "tokens of prompts and answers a minute, refilled continuously"),
        ("--tokens-per-day", "tokens a UTC day"),
    ):
        add(option, type=_limit, metavar="N", help=f"{what} (default: {default})")
    add(
        "--expires",
        type=_expiry,
        metavar="TIME",
        help=f"how long it is valid, as 90d (default: {'for ever' if is_new else default})",
    )


def _add_usage(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    usage = _add_action(actions, "usage", "requests, tokens, GPU time by day, key, tier and model")
    usage.add_argument("name", nargs="?", metavar="NAME", help="of one key (default: of all)")
    usage.add_argument(
        "--since",
        type=_day,
        default="7d",
        metavar="DAY",
        help="first UTC day, as 2026-11-01, or how long ago, as 30d (default: %(default)s)",
    )
    usage.add_argument("--csv", action="store_true", help="for a spreadsheet (default: a table)")


def _add_action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, what: str
) -> argparse.ArgumentParser:
    action = actions.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        formatter_class=_HelpFormatter,
    )
    action.add_argument(
        "--database",
        metavar="PATH or URL",
        help="SQLite file or postgresql://... (default: TIERSERVE_KEYS, or else "
        "~/.local/state/tierserve/keys.sqlite)",
    )
    action.add_argument("--json", action="store_true", help="for programs (default: for people)")
    return action


def _duration_s(text: str) -> float:
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) * _UNIT_S[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(
            f"{text} is no duration: write 30m, 12h, 90d or 8w, up to ten years"
        )
    return seconds


def _expiry(text: str) -> float | str:
    return _NO_LIMIT if text == _NO_LIMIT else _duration_s(text)


def _limit(text: str) -> int | str:
    """A number, with underscores or commas where they help; `none` takes a limit away."""
    if text == _NO_LIMIT:
        return _NO_LIMIT
    digits = text.replace(",", "").replace("_", "")
    if not re.fullmatch("[0-9]{1,15}", digits) or int(digits) < 1:
        raise argparse.ArgumentTypeError(
            f"{text} is no limit: give a whole number from 1, or {_NO_LIMIT}"
        )
    return int(digits)


def _tiers(text: str) -> frozenset[Tier]:
    try:
        return frozenset(Tier(part.strip()) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} names no tiers: write {' or '.join(Tier)}, or both with a comma"
        ) from None


def _day(text: str) -> str:
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is no day of the calendar") from None
    try:
        ago = timedelta(seconds=_duration_s(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text} is no day: write 2026-11-01, or 30d for so long ago"
        ) from None
    return (datetime.now(UTC) - ago).date().isoformat()
