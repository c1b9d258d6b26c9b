"""Reports of a model for the API and the dashboard."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bnp_online import BNPClassifier
from bnp_online.intervals import SCORED_LEVEL

from ..storage import event_codec
from .experts import KINDS, Mixture, shares
from .hosted import HostedModel
from .snapshot import versions

#: Largest number of classes in the confusion matrix, and of names of features and classes, for the dashboard.
_CONFUSED, _NAMED = 12, 100
#: Least number of predictions in the scores of the latest ones.
_RECENT = 100
#: Number of the latest targets with their predictions, of a regression, for the dashboard.
_PAIRS = 300
#: Greatest number of points in the line of a model in the overview.
_SPARKLINE = 32
#: Greatest number of drifts that are marked in it: the latest.
_MARKS = 16
#: Greatest number of numbers in an array of means.
_LARGEST_SAMPLE = 1024
#: Least number of intervals in a span of their scores.
_SPANS = {"cumulative": math.inf, "window": 1000, "recent": _RECENT}
#: Largest number of fields for the dashboard.
_FIELDS = 20
#: Largest number of features with their importances.
_IMPORTANCES = 20


def leading(mixture: Mixture) -> str | None:
    """Return in plain words what leads the mixture, and why that matters; None for a single expert.

    Examples
    --------
    >>> leading([{"kind": "linear", "weight": 0.7}, {"kind": "neighbours", "weight": 0.3}])
    'Linear models lead with 70%: the relation is close to linear, or the model has learned few samples.'
    """
    if len(mixture) == 1:
        return None
    found = shares(mixture)
    first = max(found, key=lambda kind: found[kind])
    share = f"with {found[first]:.0%}: {KINDS[first]}."
    if first != "stack":
        return f"{first.capitalize()} lead {share}"
    del found["stack"]
    second = max(found, key=lambda kind: found[kind])
    return f"The stack leads {share} Among the experts, {second} have the greatest weight: {KINDS[second]}."


def moment(model: HostedModel) -> dict[str, Any]:
    """Return the values that the dashboard plots over the steps."""
    return {
        "step": model.step,
        "scores": scores(model),
        "recent": model.history.latest(_RECENT),
        "baselines": model.baselines.report(),
        "shares": shares(model.estimator.mixture),
    }


def intervals(model: HostedModel) -> dict[str, Any] | None:
    """Return coverage and mean width of the intervals of a regression; None if the model has none."""
    history = model.history
    found = {over: history.latest_intervals(least) for over, least in _SPANS.items()}
    return None if found["cumulative"] is None else {"level": SCORED_LEVEL, **found}


def scores(model: HostedModel) -> dict[str, Any]:
    """Return the prequential metrics of a model, and those of its intervals, if it has any."""
    found = intervals(model)
    return model.score.report() if found is None else {**model.score.report(), "intervals": found}


def overview(model: HostedModel) -> dict[str, Any]:
    """Return the row of a model in the overview of all models."""
    estimator = model.estimator
    line, window = model.history.report(_SPARKLINE), model.score.windowed()
    return {
        "step": model.step,
        "recent": {name: window[name] for name in line["scores"]},
        "sparkline": line["scores"]["Accuracy" if model.spec.task == "classification" else "MAE"],
        "drift_marks": _places([step for step, _ in model.history.drifts][-_MARKS:], line["step"]),
        "drifts": model.drift.detections,
        "shares": shares(estimator.mixture),
    }


def _places(marked: Sequence[int], steps: Sequence[int]) -> list[float]:
    """Return the places of marks on a line from the first to the last of some steps, from 0 to 1.

    Examples
    --------
    >>> _places([5, 20, 40], [10, 20, 30, 50])
    [0.25, 0.75]
    """
    if len(steps) < 2:
        return []
    first, last = steps[0], steps[-1]
    return [round((step - first) / (last - first), 3) for step in marked if first <= step <= last]


def dashboard(model: HostedModel) -> dict[str, Any]:
    """Return the state of a model for the dashboard."""
    estimator = model.estimator
    classes = list(estimator.labels) if isinstance(estimator, BNPClassifier) else []
    return {
        "model": model.name,
        "task": model.spec.task,
        "input_shape": model.spec.input_shape,
        **moment(model),
        "mixture": estimator.mixture,
        "leading": leading(estimator.mixture),
        "predicted": model.predicted,
        "layers": [asdict(each) for each in estimator.diagnose()],
        "confusion": model.score.confusion(_CONFUSED) if model.spec.task == "classification" else None,
        "pairs": model.score.pairs(_PAIRS) if model.spec.task == "regression" else None,
        "classes": {"count": len(classes), "latest": classes[-_NAMED:]},
        "features": {"count": len(estimator.feature_names), "latest": estimator.feature_names[-_NAMED:]},
        "means": _means(estimator.mean_sample()),
        "fields": _fields(estimator.fields),
        "importances": model.importances.report(_IMPORTANCES),
        "recycled_values": estimator.recycled_values,
        "ignored_features": estimator.ignored_features,
        "pending": model.pending,
        "parameters": estimator.num_parameters,
        "engine": estimator.engine_name,
        "device": estimator.device_name,
    }


def _means(sample: Any) -> Any:
    """Return a sample of means to try, with six digits each: the latest features, or a small array."""
    if isinstance(sample, dict):
        return {name: _short(value) for name, value in [*sample.items()][-_NAMED:]}
    values = np.array(sample, dtype=float) if sample is not None else np.empty(0)
    return _short(sample) if 0 < values.size <= _LARGEST_SAMPLE else None


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(each) for each in value]
    return None if value is None else float(f"{value:.6g}")


def _fields(values: Mapping[str, int]) -> dict[str, Any]:
    """Return the number of fields and of their values, and the largest fields.

    Examples
    --------
    >>> _fields({"site": 40, "title": 900})["largest"]
    [{'name': 'title', 'values': 900}, {'name': 'site', 'values': 40}]
    """
    largest = sorted(values, key=lambda name: -values[name])[:_FIELDS]
    return {
        "count": len(values),
        "values": sum(values.values()),
        "largest": [{"name": name, "values": values[name]} for name in largest],
    }


def describe(model: HostedModel) -> dict[str, Any]:
    """Return the description of a model: its specification and its state."""
    estimator = model.estimator
    return {
        "name": model.name,
        "spec": model.spec.model_dump(mode="json"),
        "step": model.step,
        "classes": list(estimator.labels) if isinstance(estimator, BNPClassifier) else [],
        "features": list(estimator.feature_names),
        "fields": estimator.fields,
        "recycled_values": estimator.recycled_values,
        "ignored_features": estimator.ignored_features,
        "parameters": estimator.num_parameters,
        "device": estimator.device_name,
        "engine": estimator.engine_name,
        "mixture": estimator.mixture,
        "leading": leading(estimator.mixture),
        "sequence": model.sequence,
        "pending": model.pending,
        "importances": model.importances.report(_IMPORTANCES),
        "drift": model.drift.report(),
        "versions": versions(),
    }


def evidence(model: HostedModel, x: Any) -> dict[str, Any]:
    """Return the strongest evidence of the strings and words of a sample."""
    found = model.estimator.evidence_one(x)
    return {"model": model.name, "step": model.step, "evidence": [each._asdict() for each in found]}


def fingerprint(model: HostedModel, shadow: str | None = None) -> dict[str, Any]:
    """Return the digests of the whole state and of the estimator's, of a model or of one of its shadows."""
    if shadow is not None:
        model = model.shadow(shadow).model
    alone = model.estimator.fingerprint()
    both = alone.encode() + event_codec.dumps([model.score.state_dict(), model.drift.state_dict()])
    return {"step": model.step, "sha256": hashlib.sha256(both).hexdigest(), "model_sha256": alone}
