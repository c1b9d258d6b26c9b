"""File of keys: reading, and adding keys.

The file is replaced as a whole: after a failure, a kill or a power loss it has its old or its new content.
A key is printed before it is stored, so every stored key was printed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from ..settings import Settings
from .keys import Key, KeysError, new_secret, parse_key
from .scopes import SCOPES


def file_of(settings: Settings) -> Path:
    """Return the path of the file of keys."""
    return settings.data_dir / "keys" if settings.keys_file is None else settings.keys_file


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
        remedy = "; `bnp-online keys new` creates it" if isinstance(error, FileNotFoundError) else ""
        raise KeysError(f"BNP_KEYS_FILE: {path}: {error.strerror}{remedy}") from None
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


def exists(path: Path) -> bool:
    """Return whether a file exists.

    Raises
    ------
    KeysError
        If its folder cannot be read.
    """
    try:
        return path.exists()
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None


def add_key(key: Key, path: Path, show: Callable[[], object] = lambda: None, *, first: bool = False) -> None:
    """Add a key to a file of keys, which is created with mode 0600 if it does not exist.

    Parameters
    ----------
    key : Key
        The key.
    path : path
        The file. Its owner and mode are kept.
    show : callable
        Prints the key. It is called when the new content is on the disk, before it takes effect. If the
        process is killed in between, the printed key is not valid.
    first : bool
        Whether to add the key only to a file without keys; otherwise nothing is printed.

    Raises
    ------
    KeysError
        If the file has a key with that name, or cannot be read or written, or if `show` raises `OSError`. The
        file is unchanged.
    """
    try:
        target = Path(os.path.realpath(path))  # a symbolic link stays one
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            raise KeysError(f"{path}: not a regular file")
        temporary = target.with_name(f"{target.name}.new")
        with _locked(temporary) as file:
            keys = read_keys(path) if target.exists() else []
            if first and keys:
                return
            if any(known.name == key.name for known in keys):
                raise KeysError(f"{path} has a key with the name {key.name}: choose another name")
            _fill(file, key, target)
            _call(show)
            temporary.replace(target)
            _flush_folder(target.parent)
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file with an exclusive lock: others that change the file of keys wait.

    The file is removed at the end, unless it was renamed. A killed process leaves it without a lock, for the
    next one to use.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):
                continue  # the process that held the lock renamed or removed the file
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise KeysError(f"{path} belongs to another user: remove it")
            try:
                yield file
            finally:
                if _is_at(file, path):
                    path.unlink()
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fill(file: IO[bytes], key: Key, path: Path) -> None:
    """Write the content of a file of keys and a further key to another file, with the same owner and mode."""
    text = path.read_bytes() if path.exists() else b""
    gap = b"" if not text or text.endswith(b"\n") else b"\n"
    file.truncate(0)
    file.write(text + gap + f"{key.line()}\n".encode())
    file.flush()
    if path.exists():
        status = path.stat()
        os.fchown(file.fileno(), status.st_uid, status.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
    os.fsync(file.fileno())


def _call(show: Callable[[], object]) -> None:
    try:
        show()
    except OSError as error:
        raise KeysError(
            f"the API key could not be written to standard output ({error.strerror}) and was not stored: "
            "connect standard output and try again"
        ) from None


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def show_key(text: str) -> None:
    """Print a text with a key to standard output.

    Raises
    ------
    OSError
        If standard output is closed or cannot be written.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")
    try:
        print(text, flush=True)
    except OSError:
        # Python writes the rest of its buffer at exit, and must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def make_first_key(settings: Settings, show: Callable[[str], object]) -> None:
    """Create a key with all scopes if the server has none.

    Parameters
    ----------
    settings : Settings
        Location of the keys. A file without keys counts as missing: earlier versions left an empty one if
        they were killed, or if the disk was full.
    show : callable
        Prints the key; see `add_key`.

    Raises
    ------
    KeysError
        If the key cannot be stored or printed, or the file of keys is invalid.
    """
    path = settings.data_dir / "keys"
    if settings.api_keys is not None or settings.keys_file is not None or (exists(path) and read_keys(path)):
        return
    secret = new_secret()
    key = parse_key(f"first {','.join(SCOPES)} {secret}", hashed=False)
    add_key(key, path, partial(show, secret), first=True)
