"""Compilation of the kernels of the stage: in another process, as those of the engine (`jit`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..jit import compilation
from . import names, step
from .stage import SparseStage

_LOADED = set[str]()


def compile_kernels() -> Callable[[], None]:
    """Begin to compile the kernels, unless the cache has them; return a function that waits for the end."""
    if _LOADED:
        return _nothing
    stage = _small_stage()
    items = stage.items([], [], [])
    statement = f"import {__name__} as loading; loading.run_kernels()"
    wait = compilation(step.learn, (1.0, 1.0, True, *items, *stage.state), statement)

    def finish() -> None:
        wait()
        run_kernels()
        _LOADED.add("float32")

    return finish


def _nothing() -> None:
    """Do nothing: the kernels are loaded."""


def run_kernels() -> None:
    """Call each kernel; `step.learn` comes last, so that a cache with it has them all."""
    stage = _small_stage()
    stage.enter_columns([("a", "b")], {("a", "b"): 0})
    state, items = stage.state, stage.items(["a"], ["c"], [1.0])
    names.link_all(state._replace(slots=np.full(len(state.slots), -1, np.int32)))
    names.gather(state, np.zeros(8, np.uint8), np.zeros(8, np.int64))
    names.find(state, items.text, 0, items.ends[0], items.fields[0])
    stage.front(items, np.zeros(1))
    stage.combine(np.ones(1))
    stage.learn(items, 0.0, 1.0, judged=False)


def _small_stage() -> SparseStage:
    stage = SparseStage(regression=False, seed=0, max_values=4)
    stage.add_class()
    stage.adopt(stage.laid_out([("a", "b")], {"a": 0}), {"a": 0})
    return stage
