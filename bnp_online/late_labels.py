"""Late labels: predictions of the experts, kept until the label of their sample arrives.

A label that arrives late judges the experts of a mixture by what they predicted when the sample arrived. By
their predictions when the label arrives, it would overrate those that follow the latest samples: quick
networks and nearest neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import SampleError
from .values import LARGEST, ExpertPredictions, Vector


def check_given(
    given: object, experts: int, *, classifies: bool, groups: int = 0
) -> ExpertPredictions | None:
    """Validate predictions of the experts for a model with a number of experts.

    Returns
    -------
    ExpertPredictions or None
        The predictions, with NaN in the row of each expert without a finite one; None if there is no other,
        or if the model has no experts to judge.

    Raises
    ------
    SampleError
        ``"wrong_shape"``, or ``"invalid_prediction"`` for a number out of range.
    """
    if not isinstance(given, ExpertPredictions):
        message = "must be a result of predict_experts_one, not {kind}"
        raise SampleError("wrong_shape", "given", message, kind=type(given))
    if not experts:
        return None
    values, shape = given.values, (experts + groups, len(given.labels) if classifies else 1)
    if groups and np.shape(values) == (experts, shape[1]):  # from before the sparse stage opened
        values = np.pad(values, ((0, groups), (0, 0)), constant_values=math.nan)
    if np.shape(values) != shape:
        message = "is of shape {given}, the experts of this model need {shape}: omit it"
        raise SampleError("wrong_shape", "given", message, given=np.shape(values), shape=shape)
    values = np.asarray(values, np.float64)
    finite = np.all(np.isfinite(values), axis=1)
    if not finite.any():
        return None
    low, high = (0.0, 1.0 + 1e-6) if classifies else (-LARGEST, LARGEST)
    sound = values if finite.all() else values[finite]
    if sound.min(initial=0.0) < low or sound.max(initial=0.0) > high:
        message = "has a number that is no prediction: give the result of predict_experts_one"
        raise SampleError("invalid_prediction", "given", message)
    return ExpertPredictions(given.labels, np.where(finite[:, None], values, math.nan))


def aligned(given: Sequence[ExpertPredictions | None], targets: Any, experts: int, outputs: int) -> Vector:
    """Return checked predictions as an engine takes them, of shape (N, experts, outputs).

    Parameters
    ----------
    given : sequence
        The predictions for N samples; None for those to predict again.
    targets : LabelIndex or NumberTargets
        The targets of the model. A class that it does not have is left out; one that was unknown then has
        probability 0.
    experts, outputs : int
        Size of the result.
    """
    values = np.full((len(given), experts, outputs), math.nan)
    for row, each in zip(values, given, strict=True):
        if each is None:
            continue
        count = len(each.labels)
        if not count:
            row[:] = each.values
            continue
        row[:] = 0.0
        if list(each.labels) == targets.labels[:count]:  # most often
            row[:, :count] = each.values
        else:
            codes = [targets.find(label) for label in each.labels]
            known = [k for k, code in enumerate(codes) if code is not None]
            row[:, [codes[k] for k in known]] = each.values[:, known]
        row[np.isnan(each.values[:, 0])] = math.nan
    return values
