"""A key's secret: made, sent as `ts-<key id>-<secret>`, stored as a keyed hash, verified.

A secret has 256 random bits, so that one fast hash is enough; the hash is keyed (the pepper lies
outside of the database), so that whoever reads or writes the database alone can neither test nor
make keys. Neither secret nor pepper shows in a repr, and so not in a log or a traceback.
"""

import base64
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serve_app.access.database import DatabaseAddress, KeyStoreError
from serve_app.core.access.access_key import AccessKey, KeyRecord, KeySnapshot

PREFIX = "ts"
PEPPER_VARIABLE = "TIERSERVE_KEYS_PEPPER"
PEPPER_CHARACTERS = 32
_ID_BYTES, _SECRET_BYTES = 5, 32
_ID_CHARACTERS, _SECRET_CHARACTERS = 8, 43
_PRESENTED_BYTES = len(PREFIX) + 1 + _ID_CHARACTERS + 1 + _SECRET_CHARACTERS
# Hashed in the place of what is not a key at all, which then takes as long as a wrong one.
_NO_KEY = b"x" * _PRESENTED_BYTES
_NO_HASH = bytes(32)


class Secret:
    """A text that shows only where it is asked for."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"


class Pepper:
    """The key of all hashes."""

    __slots__ = ("_key",)

    def __init__(self, text: str) -> None:
        """Raises KeyStoreError where it is too short to be random enough."""
        if len(text) < PEPPER_CHARACTERS:
            raise KeyStoreError(
                f"The pepper has {len(text)} characters and needs {PEPPER_CHARACTERS} random ones: "
                "make one with `openssl rand -base64 32`. With another pepper all keys that were "
                "made before are invalid."
            )
        self._key = text.encode()

    def reveal(self) -> str:
        """For the environment of another process of the service."""
        return self._key.decode()

    def hash(self, presented: bytes) -> bytes:
        return hmac.digest(self._key, presented, "sha256")

    def __repr__(self) -> str:
        return "Pepper(...)"


@dataclass(frozen=True, slots=True)
class Credential:
    """What `tierserve keys add` prints, and what the store keeps of it."""

    key_id: str
    presented: Secret
    secret_hash: bytes


def make_credential(pepper: Pepper) -> Credential:
    key_id = base64.b32encode(secrets.token_bytes(_ID_BYTES)).decode().lower()
    presented = f"{PREFIX}-{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    return Credential(key_id, Secret(presented), pepper.hash(presented.encode()))


def records_by_id(snapshot: KeySnapshot) -> dict[str, KeyRecord]:
    """For `verify`."""
    return {record.key_id: record for record in snapshot.records}


def verify(
    presented: bytes, records: Mapping[str, KeyRecord], pepper: Pepper, now_s: float
) -> AccessKey | None:
    """The key whose owner sent `presented`; None where there is none or it has expired.

    Takes the same time for every text, whatever it shares with a valid key: one hash of one length
    and one comparison of the whole of it.
    """
    is_key = len(presented) == _PRESENTED_BYTES
    text = presented if is_key else _NO_KEY
    key_id = text[len(PREFIX) + 1 : len(PREFIX) + 1 + _ID_CHARACTERS]
    record = records.get(key_id.decode("latin-1"))
    expected = _NO_HASH if record is None else record.secret_hash
    is_right = hmac.compare_digest(pepper.hash(text), expected)
    if record is None or not is_right or record.key.expired(now_s):
        return None
    return record.key


def load_pepper(address: DatabaseAddress, *, create: bool = False) -> Pepper:
    """From the environment, or else from the file beside the SQLite database.

    `create` makes the file where there is none. Raises KeyStoreError where there is none, or where
    everybody may read it.
    """
    if text := os.environ.get(PEPPER_VARIABLE):
        return Pepper(text)
    if address.path is None:
        raise KeyStoreError(
            f"Keys in PostgreSQL need a pepper in {PEPPER_VARIABLE}: make one with "
            "`openssl rand -base64 32`, and give the same to every process of the service and to "
            "`tierserve keys`."
        )
    path = pepper_path(address.path)
    try:
        if create:
            _make_pepper(path)
        mode, text = path.stat().st_mode, path.read_text().strip()
    except FileNotFoundError:
        raise KeyStoreError(
            f"The pepper {path} is missing, without which no key can be verified. Restore it, or "
            f"set {PEPPER_VARIABLE}."
        ) from None
    except OSError as error:
        raise KeyStoreError(f"The pepper {path} cannot be read: {error.strerror}.") from None
    if mode & 0o004:
        raise KeyStoreError(f"Everybody may read the pepper {path}: `chmod 600 {path}`.")
    return Pepper(text)


def pepper_path(database: Path) -> Path:
    return database.with_name(f"{database.name}.pepper")


def _make_pepper(path: Path) -> None:
    """Whole or not at all, and once where several processes start at a time."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        # Fails where another process was faster; a rename would replace its pepper.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
