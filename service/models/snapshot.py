"""What a model's bits depend on beside the samples: versions and the kind of processor.

A hosted model as a checkpoint: everything that learning changes, and what it was made with.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, TypeAlias

from llvmlite import binding  # type: ignore[import-untyped]  # it ships no types

from bnp_online import __version__
from bnp_online.checkpoint import pack, unpack
from bnp_online.errors import CheckpointError

from ..schemas import ModelSpec
from ..settings import Settings
from ..storage import event_codec
from .hosted import HostedModel


@cache
def versions() -> dict[str, str]:
    """Return the versions of everything that has a say in a model's bits."""
    others = {name: version(name) for name in ("torch", "numba", "numpy", "river")}
    return {"bnp-online": __version__, "python": platform.python_version(), **others}


@cache
def processor() -> str:
    """Return the kind of processor, as the compiler of the fused step knows it."""
    return f"{platform.machine()} {binding.get_host_cpu_name()}"


State: TypeAlias = Mapping[str, Any]

#: Version of what the server adds to an estimator's state.
FORMAT = 1
#: The tensor that holds, as the bytes of JSON, what may be large: a safetensors header may not.
_BESIDE = "service"

_logger = logging.getLogger(__name__)


def taking(model: HostedModel) -> Callable[[], dict[str, Any]]:
    """Return what tells a model's state of this moment: at any time, in any thread.

    Nobody sees the model meanwhile, and most of the time goes into what can be done later.
    """
    state, beside = model.estimator.state_dict(), model.keeping()
    head = {"format": FORMAT, "spec": model.spec.model_dump(mode="json"), "sequence": model.sequence}
    return lambda: {
        **state,
        "tensors": {**state["tensors"], _BESIDE: pack(event_codec.dumps(beside()))},
        _BESIDE: {**head, "versions": versions(), "processor": processor()},
    }


def take(model: HostedModel) -> dict[str, Any]:
    """Return a model's state, which does not change when the model goes on."""
    return taking(model)()


def restore(state: State, settings: Settings, clock: Callable[[], float]) -> HostedModel:
    """Return the model in a state that `take` returned.

    Raises
    ------
    CheckpointError
        If it is of another format.
    StateError
        If it does not fit the model that it says it is of.
    """
    head = state.get(_BESIDE)
    if not isinstance(head, Mapping) or _BESIDE not in state["tensors"]:
        raise CheckpointError("holds an estimator without what a server keeps beside it: import it instead")
    if head["format"] != FORMAT:
        raise CheckpointError(
            f"written by bnp-online {head['versions']['bnp-online']} in format {head['format']}; "
            f"this version reads format {FORMAT}"
        )
    model = HostedModel(ModelSpec.model_validate_json(event_codec.dumps(head["spec"])), settings, clock)
    tensors = dict(state["tensors"])
    beside = event_codec.loads(unpack(tensors.pop(_BESIDE)))
    model.estimator.load_state_dict({**state, "tensors": tensors})
    model.load_beside(beside)
    model.sequence = head["sequence"]
    _warn(model, head, str(state["engine"]))
    return model


def _warn(model: HostedModel, head: Mapping[str, Any], engine: str) -> None:
    """Say when what follows may come out in other bits than it would have."""
    was = {**head["versions"], "processor": head["processor"], "engine": engine}
    now = {**versions(), "processor": processor(), "engine": model.estimator.engine_name}
    if changed := [f"{name} {was.get(name)} → {now[name]}" for name in now if was.get(name) != now[name]]:
        _logger.warning(
            "model %r goes on from a checkpoint that was made with others (%s): its state is that one "
            "exactly, but what is learned from here on may differ in its last bits",
            model.name,
            ", ".join(changed),
        )
