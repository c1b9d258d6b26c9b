"""API keys: their text format and generation.

A key has at least 128 random bits, so its SHA-256 does not reveal it. The server stores only this hash.
No error message quotes text of an entry: the text could be the key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import cast

from ..schemas import NAME_PATTERN
from .scopes import SCOPES, Scope

_PREFIX = "bnp_"  # recognisable for people and secret scanners
_SHORTEST = 32
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")


class KeysError(Exception):
    """The server cannot start with the configured keys, or without keys; the message says what to set."""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key of the server.

    Attributes
    ----------
    name : str
        Name, for people and the log.
    scopes : frozenset of str
        Scopes that it grants; no scope includes another.
    digest : bytes
        SHA-256 of the key.
    models : frozenset of str or None
        Models that it covers; None for all.
    expires : date or None
        First day (UTC) on which it is no longer valid.
    """

    name: str
    scopes: frozenset[Scope]
    digest: bytes
    models: frozenset[str] | None = None
    expires: date | None = None

    @property
    def expired(self) -> bool:
        """Whether the key has expired."""
        return self.expires is not None and datetime.now(UTC).date() >= self.expires

    def covers(self, model: str) -> bool:
        """Return whether the key covers a model."""
        return self.models is None or model in self.models

    def line(self) -> str:
        """Return the line of the key in a file of keys."""
        words = [self.name, ",".join(scope for scope in SCOPES if scope in self.scopes)]
        words.append(f"sha256:{self.digest.hex()}")
        if self.models is not None:
            words.append(f"models={','.join(sorted(self.models))}")
        if self.expires is not None:
            words.append(f"expires={self.expires.isoformat()}")
        return " ".join(words)


ANYBODY = Key("", frozenset(SCOPES), b"")
"""Key of a request that needs none: on a server without keys, or to a public route."""


def new_secret() -> str:
    """Return a new key of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: bytes) -> bytes:
    """Return the SHA-256 of a key, the only part of it that is stored."""
    return hashlib.sha256(secret).digest()


def parse_key(entry: str, *, hashed: bool) -> Key:
    """Parse ``NAME SCOPES KEY [models=A,B] [expires=YYYY-MM-DD]``.

    Parameters
    ----------
    entry : str
        KEY is ``sha256:`` with 64 hexadecimal digits, or the key itself.
    hashed : bool
        Whether KEY must be a hash.

    Raises
    ------
    KeysError
        If the entry is invalid; the message quotes nothing of it.

    Examples
    --------
    >>> key = parse_key("pump-7 learn,predict " + new_secret() + " models=pumps", hashed=False)
    >>> sorted(key.scopes), key.covers("pumps"), key.covers("default")
    (['learn', 'predict'], True, False)
    """
    words = entry.split()
    if len(words) < 3:
        raise KeysError("it must be NAME SCOPES KEY, optionally followed by models=… and expires=…")
    name, scopes, secret, *options = words
    if not re.fullmatch(NAME_PATTERN, name):
        raise KeysError("its name (the first word) may contain letters, digits, and . _ -")
    granted = scopes.split(",")
    if not set(granted) <= set(SCOPES):
        raise KeysError(f"its scopes (the second word) must be from {','.join(SCOPES)}")
    models, expires = _options(options)
    return Key(name, frozenset(cast(list[Scope], granted)), _digest(secret, hashed), models, expires)


def _digest(secret: str, hashed: bool) -> bytes:
    if found := _HASHED.fullmatch(secret):
        return bytes.fromhex(found[1])
    if hashed:
        raise KeysError(
            "its key (the third word) must be sha256: and 64 hexadecimal digits, not the key itself"
        )
    if len(secret) < _SHORTEST or not secret.isascii():
        raise KeysError(f"its key (the third word) must have at least {_SHORTEST} random characters")
    return digest_of(secret.encode())


def _options(words: Iterable[str]) -> tuple[frozenset[str] | None, date | None]:
    models: frozenset[str] | None = None
    expires: date | None = None
    for word in words:
        option, _, value = word.partition("=")
        if option == "models":
            models = frozenset(value.split(","))
            if not all(re.fullmatch(NAME_PATTERN, model) for model in models):
                raise KeysError("models= must list names of models, separated by commas")
        elif option == "expires":
            try:
                expires = date.fromisoformat(value)
            except ValueError:
                raise KeysError("expires= must be a date such as 2030-12-31") from None
        else:
            raise KeysError("only models=… and expires=… may follow the key")
    return models, expires
