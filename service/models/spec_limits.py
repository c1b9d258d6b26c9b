"""The server's limits on what a model may be, whichever way it comes: made, changed, or imported."""

from __future__ import annotations

from collections.abc import Mapping

from bnp_online.engines.base import LearnerSpec

from ..errors import InvalidSpecError
from ..schemas import ModelSpec
from ..settings import Settings


def complete(spec: ModelSpec, settings: Settings) -> ModelSpec:
    """Return a spec with the limits that it leaves to the server filled in.

    Raises
    ------
    InvalidSpecError
        If it asks for more than the server gives.
    ConfigurationError
        If no learner can be made from it.
    """
    given = {"max_features": settings.max_features}
    if spec.task == "classification":
        given["max_classes"] = settings.max_classes
        if spec.intervals is not None:
            message = "a classification has probabilities, and no intervals: leave intervals out"
            raise InvalidSpecError(message, "intervals")
    elif spec.max_classes is not None:
        raise InvalidSpecError("a regression has no classes: leave max_classes out", "max_classes")
    asked = {name: getattr(spec, name) for name in given}
    completed = spec.model_copy(update={name: given[name] for name in given if asked[name] is None})
    _check(completed, {name: value for name, value in asked.items() if value is not None}, settings)
    return completed


def check_change(spec: ModelSpec, changes: Mapping[str, int], settings: Settings) -> None:
    """Check limits that are about to change; the others may be beyond a server's that were lowered since.

    Raises
    ------
    InvalidSpecError
        If one is more than the server gives.
    """
    _check(spec.model_copy(update=dict(changes)), changes, settings)


def _check(spec: ModelSpec, asked: Mapping[str, int], settings: Settings) -> None:
    for name, value in asked.items():
        limit = getattr(settings, name)
        if value > limit:
            raise InvalidSpecError(f"{name} is at most {limit} here (BNP_{name.upper()})", name)
    if (most := _parameters(spec)) > settings.max_parameters:
        raise InvalidSpecError(
            f"the model may come to have {most} weights, and this server takes {settings.max_parameters} "
            "(BNP_MAX_PARAMETERS): take fewer or narrower layers, a number for lr, or a lower max_features "
            "or max_classes",
            "hidden",
        )


def _parameters(spec: ModelSpec) -> int:
    """Return how many weights and biases a model has once it is as large as it may become."""
    learner = LearnerSpec(task=spec.task, **spec.options())
    return learner.parameters(spec.max_features or 0, spec.max_classes or 1)
