"""Compilation by numba: without the GIL, with a cache on disk where one is possible."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., Any])

config: Any = numba.config  # it has no types
_logger = logging.getLogger(__name__)

#: Reassociation of sums allows vectorization; NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
#: Without numba's runtime (``_nrt``) views are not reference-counted. No function may allocate; numba refuses
#: to compile one that does.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy", "_nrt": False}


def _use_read_only_cache() -> None:
    """Copy a cache folder that is not writable, such as an image's, to a writable folder."""
    folder = config.CACHE_DIR
    if folder and os.path.isdir(folder) and not os.access(folder, os.W_OK):
        copy = tempfile.mkdtemp(prefix="bnp-online-numba-")
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        config.CACHE_DIR = copy


_use_read_only_cache()


def jit(function: _F, *, inline: bool = False, exact: bool = False) -> _F:
    """Compile a function at its first call.

    The compiled code is cached on disk for later processes on the same CPU model. Without a writable cache
    folder, each process compiles.
    """
    options = _OPTIONS | {"forceinline": inline} | ({"fastmath": False} if exact else {})
    try:
        return cast(_F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # numba found no folder for its cache
        return cast(_F, numba.njit(**options)(function))


def jit_inline(function: _F) -> _F:
    """Compile a function into its compiled callers.

    A call that is not inlined runs one of several copies of the callee: the process that compiles has further
    copies than one that loads from the cache, and two copies may round differently.
    """
    return jit(function, inline=True)


def jit_exact(function: _F) -> _F:
    """Compile a function whose operations are those of IEEE 754: each is rounded, and zeros have signs."""
    return jit(function, exact=True)


def jit_exact_inline(function: _F) -> _F:
    """Compile a function as `jit_exact`, into its compiled callers."""
    return jit(function, inline=True, exact=True)


#: Whether this process has logged that it compiles.
_logged = threading.Event()


@contextmanager
def announced(seconds: float = 3.0) -> Iterator[None]:
    """Log that the block compiles, if it takes longer than loading compiled code; once in a process."""
    timer = threading.Timer(seconds, _announce)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _announce() -> None:
    if not _logged.is_set():
        _logged.set()
        _logger.warning("Compiling for this CPU: about a minute, once (numba caches it).")


def compile_elsewhere(function: Any, arguments: tuple[Any, ...], statement: str) -> None:
    """Compile in another process, into the cache, unless the cache has the code for these arguments.

    A process that compiles has more copies of a callee than one that loads the code, and two copies may round
    differently. With this, every process loads, so that all have the same bits.

    Parameters
    ----------
    function : compiled function
        Function that calls all others.
    arguments : tuple
        Arguments of its calls; only the types matter.
    statement : str
        Python statement that compiles the function for these arguments.
    """
    compilation(function, arguments, statement)()


def compilation(function: Any, arguments: tuple[Any, ...], statement: str) -> Callable[[], None]:
    """Begin what `compile_elsewhere` does; return a function that waits for the end."""
    cache = getattr(function, "_cache", None)  # numba has no public name for it; without compilation, none
    if cache is None or cache.cache_path is None or getattr(sys, "frozen", False):
        return _nothing  # each process compiles, or none
    signature = tuple(map(numba.typeof, arguments))
    if cache.load_overload(signature, function.targetctx) is not None:
        return _nothing
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    if config.CACHE_DIR:
        environment["NUMBA_CACHE_DIR"] = config.CACHE_DIR
    command = [sys.executable, "-c", statement]
    process = subprocess.Popen(  # noqa: S603 (this Python, with a statement of this package)
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def wait() -> None:
        _, errors = process.communicate()
        if process.returncode != 0:
            _logger.warning(
                "Compilation in another process failed. This process compiles, and may differ from later "
                "ones in the last bits: %s",
                errors.strip().rpartition("\n")[2] or f"exit code {process.returncode}",
            )

    return wait


def _nothing() -> None:
    """Do nothing: the cache has the code, or there is none."""
