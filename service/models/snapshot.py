"""Snapshot of a hosted model: its state for a checkpoint, with the library versions, the CPU and the GPU.

A model that continues from a snapshot has the same bits. Further samples give the same bits only with the
same versions, CPU model and engine.
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
from bnp_online.engines.devices import environment
from bnp_online.errors import CheckpointError
from bnp_online.parameters import EARLIER

from ..schemas import ModelSpec
from ..settings import Settings
from ..storage import event_codec
from .hosted import HostedModel

State: TypeAlias = Mapping[str, Any]

#: Version of what the server adds to the state of an estimator.
FORMAT = 1
#: Tensor with the server's JSON, as bytes: it may be larger than a safetensors header.
_SERVICE = "service"

_logger = logging.getLogger(__name__)


@cache
def versions() -> dict[str, str]:
    """Return the versions of the libraries on which the bits of a model depend."""
    others = {name: version(name) for name in ("torch", "numba", "numpy", "river")}
    return {"bnp-online": __version__, "python": platform.python_version(), **others}


@cache
def processor() -> str:
    """Return architecture and CPU model, as numba's compiler names them."""
    return f"{platform.machine()} {binding.get_host_cpu_name()}"


def specification(stored: Mapping[str, Any]) -> ModelSpec:
    """Return the specification of a model in a log, a checkpoint or a file, of this or an earlier version."""
    return ModelSpec.model_validate_json(event_codec.dumps({**EARLIER, **stored}))


def taking(model: HostedModel) -> Callable[[], dict[str, Any]]:
    """Copy a model, and return a function that returns the state of the copy, in any thread.

    Only the copy needs exclusive access. The function takes most of the time.
    """
    estimator, service = model.estimator.copying(), model.copy_service_state()
    head = {"format": FORMAT, "spec": model.spec.model_dump(mode="json"), "sequence": model.sequence}
    gpu = environment(model.estimator.device_name)

    def complete() -> dict[str, Any]:
        state = estimator()
        return {
            **state,
            "tensors": {**state["tensors"], _SERVICE: pack(event_codec.dumps(service()))},
            _SERVICE: {**head, "versions": versions(), "processor": processor(), "gpu": gpu},
        }

    return complete


def sign(state: dict[str, Any], checksum: bytes | None) -> dict[str, Any]:
    """Return a state with the checksum of its last event in the log, which ties it to this log."""
    return state if checksum is None else {**state, _SERVICE: {**state[_SERVICE], "checksum": checksum.hex()}}


def signature(state: State) -> bytes | None:
    """Return the checksum from `sign`; None in states of earlier versions."""
    found = state.get(_SERVICE, {}).get("checksum")
    return None if found is None else bytes.fromhex(found)


def take(model: HostedModel) -> dict[str, Any]:
    """Return a copy of the state of a model."""
    return taking(model)()


def restore(state: State, settings: Settings, clock: Callable[[], float]) -> HostedModel:
    """Return a model in a state from `take`.

    Raises
    ------
    CheckpointError
        If the state has another format.
    StateError
        If the state does not match its specification.
    """
    head = state.get(_SERVICE)
    if not isinstance(head, Mapping) or _SERVICE not in state["tensors"]:
        raise CheckpointError("the file has an estimator without the state of a server: import it instead")
    if head["format"] != FORMAT:
        raise CheckpointError(
            f"written by bnp-online {head['versions']['bnp-online']} in format {head['format']}; "
            f"this version reads format {FORMAT}"
        )
    model = HostedModel(specification(head["spec"]), settings, clock)
    tensors = dict(state["tensors"])
    service = event_codec.loads(unpack(tensors.pop(_SERVICE)))
    model.estimator.load_state_dict({**state, "tensors": tensors})
    model.load_service_state(service)
    model.sequence = head["sequence"]
    _warn(model, head, str(state["engine"]))
    return model


def _warn(model: HostedModel, head: Mapping[str, Any], engine: str) -> None:
    """Log a warning if further samples may give other bits than on the machine of the checkpoint."""
    used = model.estimator.engine_name
    gpu = environment(model.estimator.device_name)
    was = {**head["versions"], "processor": head["processor"], "engine": engine, **head.get("gpu", {})}
    now = {**versions(), "processor": processor(), "engine": used, **gpu}
    names = [*now, *(head.get("gpu", {}).keys() - gpu.keys())]
    if changed := [
        f"{name} {was.get(name)} → {now.get(name)}" for name in names if was.get(name) != now.get(name)
    ]:
        _logger.warning(
            "model %r continues from a checkpoint of another environment (%s): its state is exact, but the "
            "results of further samples may differ in the last bits",
            model.name,
            ", ".join(changed),
        )
