"""API keys: their file format, the keyring of a server, and generation.

A key has at least 128 random bits, so its SHA-256 does not reveal it. The server stores only this hash.
No error message quotes text of an entry: the text could be the key.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import cast

from ..schemas import NAME_PATTERN
from ..settings import Settings
from .scopes import SCOPES, Scope

_PREFIX = "bnp_"  # recognisable for people and secret scanners
_SHORTEST = 32
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")

_logger = logging.getLogger(__name__)


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


def file_of(settings: Settings) -> Path:
    """Return the path of the file of keys."""
    return settings.data_dir / "keys" if settings.keys_file is None else settings.keys_file


class Keyring:
    """API keys of a server, from its environment and its file.

    Parameters
    ----------
    settings : Settings
        Location of the keys.

    Raises
    ------
    KeysError
        If the keys cannot be read, or if there are none and the server would listen beyond loopback.

    Attributes
    ----------
    keys : tuple of Key
        All keys; empty on a server without keys.
    file : Path or None
        File of keys, if there is one.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        path = file_of(settings)
        self.file = path if settings.keys_file is not None or path.exists() else None
        self.keys = self._read()
        if not self.keys and not is_loopback(settings.host):
            raise KeysError(
                f"BNP_HOST: {settings.host} is reachable from other machines, and there is no API key. "
                f"`bnp-online keys new --name NAME --scopes {','.join(SCOPES)}` creates one "
                f"in {path}; with BNP_MAKE_KEY=1 the server creates one itself; "
                "BNP_API_KEYS and BNP_KEYS_FILE name others. "
                "Or set BNP_HOST to 127.0.0.1."
            )

    def find(self, secret: bytes) -> Key | None:
        """Return the key with this secret, None if it is unknown.

        The secret is compared with every key in constant time, so the duration reveals nothing.
        """
        digest = digest_of(secret)
        found: Key | None = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def reload(self) -> None:
        """Read the keys again; on an error keep the current ones and log the reason."""
        try:
            keys = self._read()
        except KeysError as error:
            _logger.error("API keys not reloaded: %s", error)  # noqa: TRY400 (no traceback is wanted)
        else:
            self.keys = keys
            _logger.info("API keys reloaded: %s", ", ".join(key.name for key in keys))

    def _read(self) -> tuple[Key, ...]:
        keys = [*self._from_environment(), *(read_keys(self.file) if self.file is not None else ())]
        names = [key.name for key in keys]
        if twice := {name for name in names if names.count(name) > 1}:
            raise KeysError(f"several API keys have the same name: {', '.join(sorted(twice))}")
        if self.file is not None and not keys:
            raise KeysError(f"{self.file}: the file contains no key; remove it to run without keys")
        return tuple(keys)

    def _from_environment(self) -> Iterator[Key]:
        given = self._settings.api_keys
        entries = [] if given is None else re.split(r"[;\n]", given.get_secret_value())
        for i, entry in enumerate(filter(str.strip, entries), 1):
            try:
                yield parse_key(entry, hashed=False)
            except KeysError as error:
                raise KeysError(f"BNP_API_KEYS, entry {i}: {error}") from None


def read_keys(path: Path) -> list[Key]:
    """Read a file of keys: one hashed key per line; # starts a comment.

    Raises
    ------
    KeysError
        With the number of an invalid line.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise KeysError(f"BNP_KEYS_FILE: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeysError(f"BNP_KEYS_FILE: {path}: not a text file") from None
    keys = []
    for i, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0]
        if entry.strip():
            try:
                keys.append(parse_key(entry, hashed=True))
            except KeysError as error:
                raise KeysError(f"{path}, line {i}: {error}") from None
    return keys


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reachable from this machine only.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("")
    (True, True, False, False)
    """
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False  # an unknown name: not known to be safe
    return all(ipaddress.ip_address(str(address[4][0])).is_loopback for address in found)


def add_key(key: Key, path: Path) -> None:
    """Add a key to a file of keys, which is created with mode 0600 if it does not exist.

    Raises
    ------
    KeysError
        If the file has a key with that name, or cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            if any(known.name == key.name for known in read_keys(path)):
                raise KeysError(f"{path} has a key with the name {key.name}: choose another name")
            text = file.read()
            file.write(b"" if not text or text.endswith(b"\n") else b"\n")
            file.write(f"{key.line()}\n".encode())
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None


def make_first_key(settings: Settings) -> str | None:
    """Create a key with all scopes for a server without keys, and return it; None if the server has one.

    Raises
    ------
    KeysError
        If its hash cannot be stored.
    """
    path = settings.data_dir / "keys"
    if settings.api_keys is not None or settings.keys_file is not None or path.exists():
        return None
    secret = new_secret()
    add_key(parse_key(f"first {','.join(SCOPES)} {secret}", hashed=False), path)
    return secret
