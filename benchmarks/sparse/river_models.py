"""River's models of sparse features as rivals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from river import base, dummy, facto, linear_model, multiclass, naive_bayes, optim, preprocessing, stats

from ..common.streams import Stream
from ..quality.contestant import Setting
from .passes import Model


class River:
    """Step of an estimator with the interface of River."""

    def __init__(self, estimator: Any) -> None:
        classifier = hasattr(estimator, "predict_proba_one")
        self._predict = estimator.predict_proba_one if classifier else estimator.predict_one
        self._learn = estimator.learn_one

    def step(self, x: dict[str, Any], y: Any) -> Any:
        """Return the prediction, then learn."""
        answer = self._predict(x)
        self._learn(x, y)
        return answer


def _sgd(rate: float) -> optim.base.Optimizer:
    return optim.SGD(rate)


def _ftrl(rate: float) -> optim.base.Optimizer:
    return optim.FTRLProximal(alpha=rate)


def _one_for_each_class(stream: Stream, classifier: base.Classifier) -> base.Classifier:
    return classifier if len(stream.labels) == 2 else multiclass.OneVsRestClassifier(classifier)


def _linear(optimizer: Callable[[float], optim.base.Optimizer], stream: Stream, rate: float) -> Model:
    if stream.task == "regression":
        model = linear_model.LinearRegression(optimizer(rate), intercept_lr=min(rate, 0.1))
        return River(preprocessing.TargetStandardScaler(regressor=model))
    classifier = linear_model.LogisticRegression(optimizer(rate), intercept_lr=min(rate, 0.1))
    return River(_one_for_each_class(stream, classifier))


def linear(stream: Stream, seed: int, setting: Setting) -> Model:
    """Return a linear model that learns by SGD."""
    return _linear(_sgd, stream, setting["rate"])


def ftrl(stream: Stream, seed: int, setting: Setting) -> Model:
    """Return a linear model that learns by FTRL-Proximal."""
    return _linear(_ftrl, stream, setting["rate"])


def factorization(stream: Stream, seed: int, setting: Setting) -> Model:
    """Return a factorization machine with ten factors, which learns by SGD."""
    rate = setting["rate"]
    options = {
        "n_factors": 10,
        "weight_optimizer": optim.SGD(rate),
        "latent_optimizer": optim.SGD(rate),
        "intercept_lr": min(rate, 0.1),
        "seed": seed,
    }
    if stream.task == "regression":
        return River(preprocessing.TargetStandardScaler(regressor=facto.FMRegressor(**options)))
    return River(_one_for_each_class(stream, facto.FMClassifier(**options)))


def bayes(stream: Stream, seed: int, setting: Setting) -> Model:
    """Return naive Bayes with a multinomial distribution."""
    return River(naive_bayes.MultinomialNB(alpha=setting["alpha"]))


def floor(stream: Stream, seed: int, setting: Setting) -> Model:
    """Return the shares of the classes, or the mean, so far."""
    regression = stream.task == "regression"
    return River(dummy.StatisticRegressor(stats.Mean()) if regression else dummy.PriorClassifier())
