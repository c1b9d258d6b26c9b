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
from bnp_online import checkpoint as file_format
from bnp_online.checkpoint import pack, unpack
from bnp_online.engines.devices import environment
from bnp_online.errors import CheckpointError
from bnp_online.evaluation.comparison import PairedComparison
from bnp_online.parameters import EARLIER

from ..schemas import ModelSpec
from ..settings import Settings
from ..storage import event_codec
from .hosted import DIVERGED, ORIGINAL, HostedModel, Shadow
from .ledger import Ledger

State: TypeAlias = Mapping[str, Any]

#: Version of what the server adds to the state of an estimator.
FORMAT = 1
#: Tensor with the server's JSON, as bytes: it may be larger than a safetensors header.
_SERVICE = "service"
#: Prefix of the tensors with the states of shadows, each as a file.
_SHADOW = "shadow "

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


def taking(model: HostedModel, *, alone: bool = False) -> Callable[[], dict[str, Any]]:
    """Copy a model, and return a function that returns the state of the copy, in any thread.

    Only the copy needs exclusive access. The function takes most of the time.

    Parameters
    ----------
    model : HostedModel
        The model.
    alone : bool
        Whether to leave out its shadows and its losses that were not compared; see `HostedModel.adopt`.
    """
    estimator, service = model.estimator.copying(), model.copy_service_state()
    head = {"format": FORMAT, "spec": model.spec.model_dump(mode="json"), "sequence": model.sequence}
    gpu = environment(model.estimator.device_name)
    shadows = [] if alone else [taking(each.model) for each in model.shadows.values()]
    ledger = None if alone or model.ledger is None else model.ledger.copy()
    if shadows:
        head["shadows"] = [_head(each) for each in model.shadows.values()]
    if model.alias != ORIGINAL:
        head["alias"] = model.alias

    def complete() -> dict[str, Any]:
        state = estimator()
        content = service() if ledger is None else {**service(), "ledger": ledger.state_dict()}
        nested = {f"{_SHADOW}{i}": pack(file_format.dumps(each())) for i, each in enumerate(shadows)}
        return {
            **state,
            "tensors": {**state["tensors"], _SERVICE: pack(event_codec.dumps(content)), **nested},
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
    nested = [unpack(tensors.pop(f"{_SHADOW}{i}")) for i in range(len(head.get("shadows", ())))]
    service = event_codec.loads(unpack(tensors.pop(_SERVICE)))
    model.estimator.load_state_dict({**state, "tensors": tensors})
    model.load_service_state(service)
    model.sequence = head["sequence"]
    model.alias = head.get("alias", ORIGINAL)
    if "ledger" in service:
        model.ledger = Ledger()
        model.ledger.load_state_dict(service["ledger"])
    for each, body in zip(head.get("shadows", ()), nested, strict=True):
        shadow = _shadow(each, restore(file_format.loads(body), settings, clock))
        model.shadows[shadow.name] = shadow
    _warn(model, head, str(state["engine"]))
    return model


def earliest(state: State) -> int:
    """Return the number of the event after which a model in a state, or one of its shadows, needs the log."""
    head = state[_SERVICE]
    following = [each["sequence"] for each in head.get("shadows", ()) if not each["diverged"]]
    first: int = min([head["sequence"], *following])
    return first


def _head(shadow: Shadow) -> dict[str, Any]:
    return {
        "sequence": shadow.model.sequence,
        "skipped": shadow.skipped,
        "diverged": shadow.diverged,
        "comparison": shadow.comparison.state_dict(),
    }


def _shadow(head: Mapping[str, Any], model: HostedModel) -> Shadow:
    comparison = PairedComparison(model.spec.task)
    comparison.load_state_dict(head["comparison"])
    model.is_shadow = True
    diverged = head["diverged"]
    return Shadow(model, comparison, head["skipped"], diverged, DIVERGED if diverged else None)


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
