"""Reports of a model for the API and the dashboard."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from bnp_online import BNPClassifier

from ..storage import event_codec
from .hosted import HostedModel
from .snapshot import versions

#: Largest number of classes in the confusion matrix, and of names of features and classes, for the dashboard.
_CONFUSED, _NAMED = 12, 100


def moment(model: HostedModel) -> dict[str, Any]:
    """Return the values that the dashboard plots over the steps."""
    return {
        "step": model.step,
        "scores": model.score.report(),
        "baselines": model.baselines.report(),
        "mixture": model.estimator.mixture,
    }


def dashboard(model: HostedModel) -> dict[str, Any]:
    """Return the state of a model for the dashboard."""
    estimator = model.estimator
    classes = list(estimator.labels) if isinstance(estimator, BNPClassifier) else []
    return {
        "model": model.name,
        "task": model.spec.task,
        **moment(model),
        "predicted": model.predicted,
        "layers": [asdict(each) for each in estimator.diagnose()],
        "confusion": model.score.confusion(_CONFUSED) if model.spec.task == "classification" else None,
        "classes": {"count": len(classes), "latest": classes[-_NAMED:]},
        "features": {"count": len(estimator.feature_names), "latest": estimator.feature_names[-_NAMED:]},
        "ignored_features": estimator.ignored_features,
        "pending": model.pending,
        "parameters": estimator.num_parameters,
        "engine": estimator.engine_name,
        "device": estimator.device_name,
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
        "ignored_features": estimator.ignored_features,
        "parameters": estimator.num_parameters,
        "device": estimator.device_name,
        "engine": estimator.engine_name,
        "mixture": estimator.mixture,
        "sequence": model.sequence,
        "pending": model.pending,
        "drift": model.drift.report(),
        "versions": versions(),
    }


def fingerprint(model: HostedModel) -> dict[str, Any]:
    """Return the digests of the whole state and of the estimator's."""
    alone = model.estimator.fingerprint()
    both = alone.encode() + event_codec.dumps([model.score.state_dict(), model.drift.state_dict()])
    return {"step": model.step, "sha256": hashlib.sha256(both).hexdigest(), "model_sha256": alone}
