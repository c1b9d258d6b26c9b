"""Reports of a model for the API and the dashboard."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bnp_online import BNPClassifier

from ..storage import event_codec
from .hosted import HostedModel
from .snapshot import versions

#: Rate from which a network is fast: its weights follow the latest samples.
_FAST = 0.6
#: Kinds of experts, and what it means that one of them has the greatest weight.
_KINDS = {
    "fast networks": "the latest samples tell most, because samples depend on each other in time or the "
    "relation changes; labels that arrive late lower the quality",
    "networks": "the relation changes slowly, or the model has learned few samples",
    "slow networks": "the relation is stable, so replayed samples and means of weights reduce noise",
    "linear models": "the relation is close to linear, or the model has learned few samples",
    "neighbours": "samples resemble earlier ones, so the most similar ones in the memory predict best",
    "bins": "each feature tells by itself, by the interval or the code that its value is",
    "stack": "a learned combination of all experts predicts better than their weighted mean",
}
#: Largest number of classes in the confusion matrix, and of names of features and classes, for the dashboard.
_CONFUSED, _NAMED = 12, 100
#: Least number of predictions in the scores of the latest ones.
_RECENT = 100
#: Number of the latest targets with their predictions, of a regression, for the dashboard.
_PAIRS = 300
#: Greatest number of points in the line of a model in the overview.
_SPARKLINE = 32
#: Largest number of fields for the dashboard.
_FIELDS = 20
#: Largest number of features with their importances.
_IMPORTANCES = 20


def _kind(expert: Mapping[str, Any]) -> str:
    if expert["kind"] != "network":
        return {"linear": "linear models"}.get(expert["kind"], str(expert["kind"]))
    if expert["replay"] or expert["averages"]:
        return "slow networks"
    return "fast networks" if expert["lr"] >= _FAST else "networks"


def shares(mixture: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the weight of each kind of experts in the prediction, with sum 1."""
    present = {_kind(each) for each in mixture}
    found = {kind: 0.0 for kind in _KINDS if kind in present}
    for each in mixture:
        found[_kind(each)] += each["weight"]
    return found


def leading(mixture: Sequence[Mapping[str, Any]]) -> str | None:
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
    share = f"with {found[first]:.0%}: {_KINDS[first]}."
    if first != "stack":
        return f"{first.capitalize()} lead {share}"
    del found["stack"]
    second = max(found, key=lambda kind: found[kind])
    return f"The stack leads {share} Among the experts, {second} have the greatest weight: {_KINDS[second]}."


def moment(model: HostedModel) -> dict[str, Any]:
    """Return the values that the dashboard plots over the steps."""
    return {
        "step": model.step,
        "scores": model.score.report(),
        "recent": model.history.latest(_RECENT),
        "baselines": model.baselines.report(),
        "shares": shares(model.estimator.mixture),
    }


def overview(model: HostedModel) -> dict[str, Any]:
    """Return the row of a model in the overview of all models."""
    estimator = model.estimator
    line = model.history.report(_SPARKLINE)["scores"]
    return {
        "step": model.step,
        "recent": model.history.latest(1000),
        "sparkline": line["Accuracy" if model.spec.task == "classification" else "MAE"],
        "drifts": model.drift.detections,
        "shares": shares(estimator.mixture),
    }


def dashboard(model: HostedModel) -> dict[str, Any]:
    """Return the state of a model for the dashboard."""
    estimator = model.estimator
    classes = list(estimator.labels) if isinstance(estimator, BNPClassifier) else []
    return {
        "model": model.name,
        "task": model.spec.task,
        **moment(model),
        "mixture": estimator.mixture,
        "leading": leading(estimator.mixture),
        "predicted": model.predicted,
        "layers": [asdict(each) for each in estimator.diagnose()],
        "confusion": model.score.confusion(_CONFUSED) if model.spec.task == "classification" else None,
        "pairs": model.score.pairs(_PAIRS) if model.spec.task == "regression" else None,
        "classes": {"count": len(classes), "latest": classes[-_NAMED:]},
        "features": {"count": len(estimator.feature_names), "latest": estimator.feature_names[-_NAMED:]},
        "fields": _fields(estimator.fields),
        "importances": model.importances.report(_IMPORTANCES),
        "recycled_values": estimator.recycled_values,
        "ignored_features": estimator.ignored_features,
        "pending": model.pending,
        "parameters": estimator.num_parameters,
        "engine": estimator.engine_name,
        "device": estimator.device_name,
    }


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


def fingerprint(model: HostedModel) -> dict[str, Any]:
    """Return the digests of the whole state and of the estimator's."""
    alone = model.estimator.fingerprint()
    both = alone.encode() + event_codec.dumps([model.score.state_dict(), model.drift.state_dict()])
    return {"step": model.step, "sha256": hashlib.sha256(both).hexdigest(), "model_sha256": alone}
