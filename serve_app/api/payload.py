"""A request's body as JSON, read within bounds: how many values, how large an integer."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import pydantic_core

from serve_app.errors import RequestError, invalid

# What a parser, the tier's rules and vLLM's schemas do for each value, they do on the event loop.
# So many take them less than 100 ms together; a batch of 32 prompts of 4,096 token ids has fewer.
MAX_VALUES = 150_000
# A key costs as much as ten values.
MAX_KEYS = 25_000
# vLLM's processes hand requests to each other as msgpack, which ends at 64 bits.
LEAST_INTEGER, MOST_INTEGER = -(1 << 63), (1 << 63) - 1
# Below it no integer is that large, so that nothing has to be looked through.
_DIGITS_OF_64_BITS = re.compile(rb"[0-9]{19}")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises RequestError 400 where it is none, holds too many values,
    or an integer beyond 64 bits."""
    _refuse_many_values(body)
    try:
        payload = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(payload, dict):
        raise invalid("The body must be a JSON object.", code="invalid_json")
    if _DIGITS_OF_64_BITS.search(body):
        _refuse_large_integers(payload)
    return payload


def as_json(payload: Mapping[str, Any]) -> bytes:
    """The body that the engine gets. Raises RequestError for a number like 1e999, which is read
    as infinity and which the engine would sample with."""
    try:
        return json.dumps(payload, allow_nan=False).encode()
    except ValueError as error:
        field = next((name for name, value in payload.items() if _is_infinite(value)), None)
        where = "" if field is None else f" in `{field[:64]}`"
        message = f"A number{where} is too large: at most about 1.8e308."
        raise invalid(message, param=field and field[:64], code="invalid_json") from error


def _is_infinite(value: object) -> bool:
    """Whether a number in it is."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, float) and math.isinf(part):
            return True
    return False


def _refuse_many_values(body: bytes) -> None:
    values, keys = _count(body)
    if values <= MAX_VALUES and keys <= MAX_KEYS:
        return
    # Most of it may be the punctuation of a long text: what stands between quotes is left out.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    if strings > MAX_VALUES:
        raise _too_complex(f"{strings:,} strings; at most {MAX_VALUES:,}")
    values, keys = _count(b"".join(plain.split(b'"')[::2]))
    if values > MAX_VALUES:
        raise _too_complex(f"{values:,} values; at most {MAX_VALUES:,}")
    if keys > MAX_KEYS:
        raise _too_complex(f"{keys:,} keys; at most {MAX_KEYS:,}")


def _count(body: bytes) -> tuple[int, int]:
    """Values and keys, each counted once too often at most."""
    opened = body.count(b"[") + body.count(b"{")
    return opened + body.count(b","), body.count(b":")


def _too_complex(what: str) -> RequestError:
    return invalid(f"The body has {what} are taken.", code="request_too_complex")


def _refuse_large_integers(payload: Mapping[str, Any]) -> None:
    for field, value in payload.items():
        waiting = [value]
        while waiting:
            part = waiting.pop()
            if isinstance(part, dict):
                waiting += part.values()
            elif isinstance(part, list):
                waiting += part
            elif isinstance(part, int) and not LEAST_INTEGER <= part <= MOST_INTEGER:
                raise invalid(
                    f"`{field[:64]}` has an integer beyond 64 bits: from -2^63 to 2^63 - 1.",
                    param=field[:64],
                    code="integer_too_large",
                )
