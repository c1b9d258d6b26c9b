"""Learning of a sample by each of many models, in as few calls as possible."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..engines import numba_many
from ..engines.numba_engine import NumbaEngine
from ..engines.persistent import together as persistent_many
from ..engines.persistent.engine import PersistentEngine
from ..errors import ConfigurationError, DeviceMemoryError, NonFiniteStateError
from ..values import Prediction, Sample, Vector, at_row
from .learning import REFUSED, OnlineLearner, Refusal

_Shape: TypeAlias = tuple[Any, ...]
#: Position of a model, and its raw input, target and weight.
_Part: TypeAlias = tuple[int, Vector, float, float]


def learn_together(
    models: Sequence[OnlineLearner], X: Sequence[Any], y: Sequence[Any], w: Sequence[float] | None = None
) -> list[Prediction | Refusal]:
    """Let each of many models predict a sample of its own, and then learn it.

    Each model has the same bits as after `OnlineLearner.learn_one`. On the CPU, models with equal numbers of
    inputs and outputs share one compiled call, which ``BNP_THREADS`` threads divide. On a GPU, models whose
    networks have one shape share one launch. A model learns alone if its sample has a new feature or label,
    and if it has intervals or a sparse stage.

    Parameters
    ----------
    models : sequence of BNPClassifier or BNPRegressor
        Different models.
    X : sequence
        A sample for each, as for `learn_one`.
    y : sequence
        The targets.
    w : sequence of float, optional
        Weights of the samples, ≥ 0; 1 by default.

    Returns
    -------
    list
        For each model its prediction before the step, or the error that refused the sample
        (`NonFiniteStateError`, `DeviceMemoryError`). A model that refuses its sample does not change.

    Raises
    ------
    SampleError
        If a sample is invalid; the error has its position. No model has changed.
    ConfigurationError
        If a model is there twice or is none of this package, if the lengths differ, or if one of them is no
        list. No model has changed.

    Examples
    --------
    >>> from bnp_online import BNPRegressor, learn_together
    >>> models = [BNPRegressor(hidden=(4,), seed=i) for i in range(3)]
    >>> for i in range(5):
    ...     found = learn_together(models, [{"size": i}, {"size": 2}, {"heat": -i}], [2 * i, 5, i])
    >>> [model.step for model in models], type(found[0].value)
    ([5, 5, 5], <class 'float'>)
    """
    _check(models, X=X, y=y, **({} if w is None else {"w": w}))
    weights = [1.0] * len(models) if w is None else w
    calls: defaultdict[_Shape, list[_Part]] = defaultdict(list)
    samples: dict[int, Sample] = {}
    for i, (model, x, target, weight) in enumerate(zip(models, X, y, weights, strict=True)):
        shape = _shape_of(model)
        row = None if shape is None else at_row(model._row, i, x)
        code = model._targets.find(target)
        plain = type(weight) is float and 0.0 <= weight < math.inf
        if shape is None or row is None or code is None or not plain:
            samples[i] = at_row(model.preview().check, i, x, target, weight)
        else:
            calls[shape].append((i, row, code, weight))
    found: list[Any] = [None] * len(models)
    for (learn_each, *_), parts in calls.items():
        _learn_parts(learn_each, models, parts, found)
    for i, sample in samples.items():
        [found[i]] = models[i].learn_samples([sample])
    return found


def _check(models: Sequence[OnlineLearner], **parts: Sequence[Any]) -> None:
    for name, part in {"models": models, **parts}.items():
        if not isinstance(part, Sequence) or isinstance(part, str | bytes):
            kind = type(part).__name__
            raise ConfigurationError(name, f"is a {kind}: send a list with one entry for each model")
        if len(part) != len(models):
            raise ConfigurationError(name, f"there are {len(models)} models, and {len(part)} in {name}")
    for i, model in enumerate(models):
        if not isinstance(model, OnlineLearner):
            message = f"models[{i}] is a {type(model).__name__}: use BNPClassifier and BNPRegressor"
            raise ConfigurationError("models", message)
    if len({*map(id, models)}) < len(models):
        raise ConfigurationError("models", "a model is there twice: let it learn one sample after the other")


def _shape_of(model: OnlineLearner) -> _Shape | None:
    """Return the function that several models share, and what they must have in common; None without one."""
    engine = model._engine
    if model._intervals is not None or model._stage is not None or model._tails_due or not model._step:
        return None
    if isinstance(engine, NumbaEngine):
        shape = numba_many.shape_of(engine)
        return None if shape is None else (numba_many.learn_each, *shape)
    if isinstance(engine, PersistentEngine):
        shape = persistent_many.shape_of(engine)
        return None if shape is None else (persistent_many.learn_each, *shape)
    return None


def _learn_parts(
    learn_each: Any, models: Sequence[OnlineLearner], parts: Sequence[_Part], found: list[Any]
) -> None:
    """Let models learn in one call; write what came of it to the list, at their positions."""
    positions, rows, targets, weights = zip(*parts, strict=True)
    some = [models[i] for i in positions]
    engines, x = [model._engine for model in some], np.array(rows).reshape(len(rows), -1)
    try:
        learned, values = learn_each(engines, x, np.array(targets, np.float64), np.array(weights))
    except DeviceMemoryError as error:
        for i in positions:
            found[i] = error
        return
    for k, (i, model, done) in enumerate(zip(positions, some, learned.tolist(), strict=True)):
        if done:
            [found[i]] = model._targets.read(values[k : k + 1])
            model._learned(1, rows[k])
        else:
            found[i] = NonFiniteStateError(REFUSED)
