"""Limits of the server on the specification of a model that is created, changed or imported."""

from __future__ import annotations

from collections.abc import Mapping

from bnp_online.engines.base import LearnerSpec
from bnp_online.engines.devices import resolved

from ..errors import InvalidSpecError
from ..problems import task_problem
from ..schemas import ModelSpec
from ..settings import Settings
from .backbones import open_backbone


def complete(spec: ModelSpec, settings: Settings) -> ModelSpec:
    """Return a specification with the server's limits where it has none.

    Raises
    ------
    InvalidSpecError
        If the specification exceeds a limit.
    ConfigurationError
        If the library refuses the specification, or this machine does not have its device.
    """
    given = {"max_features": settings.max_features, "max_values": settings.max_values}
    spec = _with_backbone(spec, settings)
    _check_words(spec)
    if spec.device is not None:
        resolved(spec.device)
    if (problem := task_problem(spec)) is not None:
        raise InvalidSpecError(*problem)
    if spec.task == "classification":
        given["max_classes"] = settings.max_classes
    asked = {name: getattr(spec, name) for name in given}
    completed = spec.model_copy(update={name: given[name] for name in given if asked[name] is None})
    _check(completed, {name: value for name, value in asked.items() if value is not None}, settings)
    return completed


def check_change(spec: ModelSpec, changes: Mapping[str, int], settings: Settings) -> None:
    """Check changed limits. Unchanged ones may exceed the server's, which may have been lowered.

    Raises
    ------
    InvalidSpecError
        If a changed limit exceeds the server's.
    """
    _check(spec.model_copy(update=dict(changes)), changes, settings)


def _with_backbone(spec: ModelSpec, settings: Settings) -> ModelSpec:
    """Return a specification with the digest and the input shape of its backbone."""
    if spec.backbone is None:
        if spec.backbone_sha256 is not None:
            raise InvalidSpecError("is the digest of a backbone: omit it, or name one", "backbone_sha256")
        return spec
    backbone = open_backbone(spec.backbone, settings, spec.backbone_sha256)
    found = {"backbone_sha256": backbone.sha256, "input_shape": spec.input_shape or backbone.input_shape}
    return spec.model_copy(update=found)


def _check_words(spec: ModelSpec) -> None:
    """Check that a model with texts or counts can read them."""
    for name in ("text", "sparse"):
        if not getattr(spec, name):
            continue
        if spec.input_shape is not None:
            raise InvalidSpecError(f"{name} is for features with names: omit {name} or input_shape", name)
        if spec.learner < 2:
            raise InvalidSpecError(f"{name} needs the latest learner: omit {name} or learner", name)


def _check(spec: ModelSpec, asked: Mapping[str, int], settings: Settings) -> None:
    for name, value in asked.items():
        limit = getattr(settings, name)
        if value > limit:
            raise InvalidSpecError(
                f"{name} must be at most {limit} on this server (BNP_{name.upper()})", name
            )
    if (most := _parameters(spec, settings)) > settings.max_parameters:
        raise InvalidSpecError(
            f"the model may grow to {most} weights, and this server allows {settings.max_parameters} "
            "(BNP_MAX_PARAMETERS): use fewer or narrower layers, a number for lr, or a lower max_features "
            "or max_classes",
            "network" if isinstance(spec.network, list) else "hidden",
        )


def _parameters(spec: ModelSpec, settings: Settings) -> int:
    """Return the largest number of weights and biases that the model can have."""
    backbone = None
    if spec.backbone is not None:
        backbone = open_backbone(spec.backbone, settings, spec.backbone_sha256)
    learner = LearnerSpec(task=spec.task, backbone=backbone, **spec.options())
    return learner.parameters(spec.max_features or 0, spec.max_classes or 1)
