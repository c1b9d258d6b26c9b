"""What a model's bits depend on beside the samples: versions and the kind of processor."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

from llvmlite import binding  # type: ignore[import-untyped]  # it ships no types

from bnp_online import __version__


@cache
def versions() -> dict[str, str]:
    """Return the versions of everything that has a say in a model's bits."""
    others = {name: version(name) for name in ("torch", "numba", "numpy", "river")}
    return {"bnp-online": __version__, "python": platform.python_version(), **others}


@cache
def processor() -> str:
    """Return the kind of processor, as the compiler of the fused step knows it."""
    return f"{platform.machine()} {binding.get_host_cpu_name()}"
