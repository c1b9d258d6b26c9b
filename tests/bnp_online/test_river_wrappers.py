"""Every estimator of River that wraps a classifier or a regressor learns with ours.

The wrappers are found by inspection of the installed River, so a new one is tested without a change here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import river
from river import bandit, base, metrics, time_series

from bnp_online import BNPClassifier, BNPRegressor

Make = Callable[[], Any]
SAMPLES = 50


def classifier() -> BNPClassifier:
    return BNPClassifier(hidden=(4,), replay=0)


def regressor() -> BNPRegressor:
    return BNPRegressor(hidden=(4,), replay=0)


#: Values of other parameters without a default, by name.
ARGUMENTS: dict[str, Callable[[bool], Any]] = {
    "metric": lambda classifies: metrics.Accuracy() if classifies else metrics.MAE(),
    "policy": lambda _: bandit.EpsilonGreedy(0.1, seed=1),
    "desired_dist": lambda _: {"a": 0.5, "b": 0.5},
    "budget": lambda _: 60,
    "size": lambda _: 5,
    "p": lambda _: 0.5,
    "y_min": lambda _: -10.0,
    "y_max": lambda _: 10.0,
    "code_size": lambda _: 6,
    "func": lambda _: float,
    "inverse_func": lambda _: float,
    "seed": lambda _: 1,
    "n_models": lambda _: 3,
    "horizon": lambda _: 1,
    "d": lambda _: 0,
    "q": lambda _: 1,
}
#: Parameters that hold a model, besides those whose annotation names a kind of model.
MODELS = {"classifier", "regressor", "model", "models", "predictive_model", "pred_model", "leaf_model"}


def is_model(parameter: inspect.Parameter) -> bool:
    annotation = str(parameter.annotation)
    kinds = ("base.Classifier", "base.Regressor", "base.Estimator")
    return parameter.name in MODELS or any(kind in annotation for kind in kinds)


def wrappers() -> Iterator[Any]:
    found = {}
    for module in pkgutil.iter_modules(river.__path__):
        for name, kind in inspect.getmembers(
            importlib.import_module(f"river.{module.name}"), inspect.isclass
        ):
            if not inspect.isabstract(kind) and kind.__module__.startswith("river."):
                found[kind] = f"{module.name}.{name}"
    for kind, name in sorted(found.items(), key=lambda item: item[1]):
        if any(map(is_model, parameters_of(kind))) and hasattr(kind, "learn_one"):
            yield pytest.param(kind, id=name)


def parameters_of(kind: type) -> list[inspect.Parameter]:
    return [*inspect.signature(kind.__init__).parameters.values()][1:]  # type: ignore[misc]  # of a class


def classifies(kind: type) -> bool:
    return issubclass(kind, base.Classifier | base.MultiLabelClassifier)


def made(kind: type, make: Make) -> Any:
    """Return the wrapper around estimators, with its other parameters as small as they may be."""
    arguments: dict[str, Any] = {}
    for parameter in parameters_of(kind):
        name, required = parameter.name, parameter.default is parameter.empty
        if is_model(parameter):
            arguments[name] = [make(), make()] if name == "models" else make()
        elif required and "int" in str(parameter.annotation):
            arguments[name] = 6
        elif (required or name in ("seed", "n_models")) and name in ARGUMENTS:
            arguments[name] = ARGUMENTS[name](classifies(kind))
    return kind(**arguments)


def stream(kind: type) -> Iterator[tuple[dict[Any, Any], Any]]:
    rng = np.random.default_rng(1)
    for _ in range(SAMPLES):
        x = {"a": float(rng.normal()), "b": float(rng.normal())}
        if issubclass(kind, base.MultiLabelClassifier):
            yield x, {"one": x["a"] > 0, "two": x["b"] > 0}
        elif issubclass(kind, base.MultiTargetRegressor):
            yield x, {"one": x["a"], "two": x["b"]}
        else:
            yield x, ("a" if x["a"] > 0 else "b") if classifies(kind) else x["a"]


def learn(wrapper: Any, samples: Iterable[tuple[dict[Any, Any], Any]]) -> None:
    for x, y in samples:
        if isinstance(wrapper, time_series.base.Forecaster):
            wrapper.learn_one(y, x)
        elif hasattr(wrapper, "score_one"):
            wrapper.score_one(x, y)
            wrapper.learn_one(x, y)
        else:
            wrapper.predict_one(x)
            wrapper.learn_one(x, y)


@pytest.mark.parametrize("kind", [*wrappers()])
@pytest.mark.filterwarnings("ignore")  # of the wrappers themselves
def test_a_wrapper_learns_with_our_estimators(kind: type) -> None:
    wrapper = made(kind, classifier if classifies(kind) else regressor)
    learn(wrapper, stream(kind))
    if isinstance(wrapper, base.Classifier):
        prediction = wrapper.predict_one({"a": 1.0, "b": 1.0})
        label = prediction[0] if isinstance(prediction, tuple) else prediction  # a sampler adds a question
        assert label in ("a", "b")
