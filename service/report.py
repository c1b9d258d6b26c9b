"""What a model says of itself."""

from __future__ import annotations

import hashlib
from typing import Any

from bnp_online import BNPClassifier
from service import events
from service.hosted import HostedModel
from service.machine import versions


def scores(model: HostedModel) -> dict[str, Any]:
    """Return the prequential metrics."""
    return model.score.report()


def describe(model: HostedModel) -> dict[str, Any]:
    """Return what a model was told to be, and what it became."""
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
        "versions": versions(),
    }


def fingerprint(model: HostedModel) -> dict[str, Any]:
    """Return digests of a model's state: of all of it, and of the estimator's alone."""
    alone = model.estimator.fingerprint()
    both = alone.encode() + events.dumps(model.score.state_dict())
    return {"step": model.step, "sha256": hashlib.sha256(both).hexdigest(), "model_sha256": alone}
