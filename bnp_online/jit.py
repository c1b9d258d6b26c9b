"""numba's compiler, as this library uses it: without the GIL, cached on disk where that is possible."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., Any])

config: Any = numba.config  # which has no types
_logger = logging.getLogger(__name__)

#: Sums may be reassociated, so that they can be vectorized; NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
#: Without numba's run time (``_nrt``) views are not reference-counted; nothing here allocates, and numba
#: refuses to compile what would.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy", "_nrt": False}


def _use_read_only_cache() -> None:
    """Let numba read a cache that it cannot write, such as an image's: it takes a writable copy of it."""
    folder = config.CACHE_DIR
    if folder and os.path.isdir(folder) and not os.access(folder, os.W_OK):
        copy = tempfile.mkdtemp(prefix="bnp-online-numba-")
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        config.CACHE_DIR = copy


_use_read_only_cache()


def jit(function: _F) -> _F:
    """Compile a function when it is first called.

    The compiled code is kept on disk and found again by the next process on the same kind of processor. A
    cache folder that cannot be written must not stop anyone: the function is compiled anew, then.
    """
    try:
        return cast(_F, numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # numba found no folder for its cache
        return cast(_F, numba.njit(**_OPTIONS)(function))


@contextmanager
def announced(seconds: float = 3.0) -> Iterator[None]:
    """Say that it compiles, if the block takes longer than loading compiled code would."""
    message = "Compiling the fused step for this processor: about half a minute, once (numba caches it)."
    timer = threading.Timer(seconds, _logger.warning, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
