"""Keyring of a server: the API keys in its environment and its file of keys."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
import socket
from collections.abc import Iterator

from ..settings import Settings
from .key_file import exists, file_of, read_keys
from .keys import Key, KeysError, digest_of, parse_key
from .scopes import SCOPES

_logger = logging.getLogger(__name__)


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
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = file_of(settings)
        self._has_file = settings.keys_file is not None
        self.keys = self._read()
        if not self.keys and not is_loopback(settings.host):
            raise KeysError(
                f"BNP_HOST: {settings.host} is reachable from other machines, and there is no API key. "
                f"`bnp-online keys new --name NAME --scopes {','.join(SCOPES)}` creates one "
                f"in {self._path}; with BNP_MAKE_KEY=1 the server creates one itself; "
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
        """Read the keys again; on an error keep the current ones and log the reason.

        A file of keys that was created since is read too. If a file that was read is missing, this is an
        error: the server does not lose its keys by it.
        """
        try:
            keys = self._read()
        except KeysError as error:
            _logger.error("API keys not reloaded: %s", error)  # noqa: TRY400 (no traceback is wanted)
        else:
            self.keys = keys
            _logger.info("API keys reloaded: %s", ", ".join(key.name for key in keys) or "there are none")

    def _read(self) -> tuple[Key, ...]:
        has_file = self._has_file or exists(self._path)
        keys = [*self._from_environment(), *(read_keys(self._path) if has_file else ())]
        names = [key.name for key in keys]
        if twice := {name for name in names if names.count(name) > 1}:
            raise KeysError(f"several API keys have the same name: {', '.join(sorted(twice))}")
        if has_file and not keys:
            raise KeysError(
                f"{self._path}: the file contains no key: add one with `bnp-online keys new`"
                + ("" if self._settings.keys_file else ", let the server create one with BNP_MAKE_KEY=1")
                + ", or remove the file to run without keys"
            )
        self._has_file = has_file
        return tuple(keys)

    def _from_environment(self) -> Iterator[Key]:
        given = self._settings.api_keys
        entries = [] if given is None else re.split(r"[;\n]", given.get_secret_value())
        for i, entry in enumerate(filter(str.strip, entries), 1):
            try:
                yield parse_key(entry, hashed=False)
            except KeysError as error:
                raise KeysError(f"BNP_API_KEYS, entry {i}: {error}") from None


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
