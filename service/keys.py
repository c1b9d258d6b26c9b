"""``python -m service.keys new``: make an API key."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import date
from pathlib import Path

from service.access import SCOPES
from service.security import Key, KeysError, file_of, new_secret, parse_key, read_keys
from service.settings import Settings, read_settings


def main() -> None:
    """Make a key, keep its hash in the file of keys, and print it: the only time that it is seen."""
    arguments = _arguments()
    path = arguments.file or file_of(read_settings())
    secret = new_secret()
    words = [arguments.name, arguments.scopes, secret]
    words += [f"models={arguments.models}"] if arguments.models else []
    words += [f"expires={arguments.expires}"] if arguments.expires else []
    try:
        add_key(parse_key(" ".join(words), hashed=False), path)
    except KeysError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(secret)
    print(f"Its hash is in {path}. A running server takes it on SIGHUP.", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.keys", description="API keys of the server.")
    new = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "new", help="make a key: it is printed once, and its hash is added to the file of keys"
    )
    new.add_argument("--name", required=True, help="for people and for the log")
    new.add_argument("--scopes", required=True, help=f"some of {','.join(SCOPES)}, with commas between them")
    new.add_argument("--models", help="names of models, with commas between them; by default all")
    new.add_argument("--expires", type=date.fromisoformat, help="the day from which it is not valid any more")
    new.add_argument("--file", type=Path, help="by default BNP_KEYS_FILE, or keys in BNP_DATA_DIR")
    return parser.parse_args()


def add_key(key: Key, path: Path) -> None:
    """Add a key to a file of keys, which is made if it is not there, for its owner alone.

    Raises
    ------
    KeysError
        If the file has a key of that name, or cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            if any(known.name == key.name for known in read_keys(path)):
                raise KeysError(f"{path} has a key of the name {key.name}: take another name")
            text = file.read()
            file.write(b"" if not text or text.endswith(b"\n") else b"\n")
            file.write(f"{key.line()}\n".encode())
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None


def make_first_key(settings: Settings) -> str | None:
    """Make a key with all scopes for a server that has none, and return it; None if the server has one.

    Raises
    ------
    KeysError
        If its hash cannot be kept.
    """
    path = settings.data_dir / "keys"
    if settings.api_keys is not None or settings.keys_file is not None or path.exists():
        return None
    secret = new_secret()
    add_key(parse_key(f"first {','.join(SCOPES)} {secret}", hashed=False), path)
    return secret


if __name__ == "__main__":
    main()
