"""Contestants: the library's estimators, plain torch, Vowpal Wabbit and River."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from bnp_online import BNPClassifier, BNPRegressor

from ..common.streams import RAW, STANDARDIZED, Stream
from . import river_models
from .contestant import Contestant, Run, Setting, Tick, run_samples
from .plain_torch import run_plain
from .vowpal import run_vowpal

_OURS = ("bnp-online", "numba", "numpy", "torch")
_INPUTS = (STANDARDIZED, RAW)


def _bnp(parameters: Mapping[str, Any], stream: Stream, seed: int, setting: Setting, tick: Tick) -> Run:
    """Run BNP with its defaults but `parameters`, on arrays for images and on dicts for other streams."""
    make = BNPClassifier if stream.task == "classification" else BNPRegressor
    if stream.pixels is None:
        return run_samples(make(seed=seed, **parameters), stream, stream.samples, tick)
    model = make(input_shape=stream.pixels.shape[1:], seed=seed, **parameters)
    return run_samples(model, stream, zip(stream.pixels, stream.targets, strict=True), tick)


class LastTarget:
    """Prediction of the last label or target: strong where they persist, and useless where they come late."""

    def __init__(self) -> None:
        self._last: Any = None

    def learn_one(self, x: Any, y: Any) -> None:
        """Remember a target."""
        self._last = y

    def predict_one(self, x: Any) -> Any:
        """Return the last target."""
        return self._last

    def predict_proba_one(self, x: Any) -> dict[Any, float]:
        """Return the probability 1 for the last label."""
        return {} if self._last is None else {self._last: 1.0}


def _last(stream: Stream, seed: int, setting: Setting, tick: Tick) -> Run:
    return run_samples(LastTarget(), stream, stream.samples, tick)


#: In the order in which they run. To add a rival, add an entry.
CONTESTANTS = (
    Contestant(
        "BNP", "BNPClassifier() / BNPRegressor(), as they come", functools.partial(_bnp, {}), _OURS, ours=True
    ),
    Contestant(
        "SGD*",
        "torch.optim.SGD, the same network",
        functools.partial(run_plain, torch.optim.SGD),
        ("numpy", "torch"),
        {"rate": (0.001, 0.003, 0.01, 0.03, 0.1)},
    ),
    Contestant(
        "Adam*",
        "torch.optim.Adam, the same network",
        functools.partial(run_plain, torch.optim.Adam),
        ("numpy", "torch"),
        {"rate": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
    ),
    Contestant(
        "VW*",
        "Vowpal Wabbit: --oaa, logistic loss / squared loss on standardized targets",
        functools.partial(run_vowpal, ""),
        ("numpy", "vowpalwabbit"),
        {"rate": (0.1, 0.3, 1.0, 3.0, 10.0), "inputs": _INPUTS},
        seeded=False,
    ),
    Contestant(
        "VW-nn*",
        "Vowpal Wabbit: the same with --nn 20",
        functools.partial(run_vowpal, "--nn 20"),
        ("numpy", "vowpalwabbit"),
        {"rate": (0.03, 0.1, 0.3, 1.0, 3.0), "inputs": _INPUTS},
        # Of standardized pixels none is 0: at the higher rates a run over 20,000 images takes ten minutes.
        slow={"inputs": STANDARDIZED},
    ),
    Contestant(
        "ARF",
        "River: ARFClassifier / StandardScaler | ARFRegressor, adaptive random forests of ten trees",
        functools.partial(river_models.run, river_models.random_forest),
        ("river",),
    ),
    Contestant(
        "HAT",
        "River: HoeffdingAdaptiveTreeClassifier / StandardScaler | HoeffdingAdaptiveTreeRegressor",
        functools.partial(river_models.run, river_models.hoeffding_tree),
        ("river",),
    ),
    Contestant(
        "KNN*",
        "River: KNNClassifier / KNNRegressor, 5 neighbours, exact search, with or without StandardScaler",
        functools.partial(river_models.run, river_models.nearest_neighbours),
        ("numpy", "river"),
        {"window": (1000, 5000), "inputs": _INPUTS},
        seeded=False,
    ),
    Contestant(
        "Linear",
        "River: StandardScaler | LogisticRegression (one vs. rest) / LinearRegression",
        functools.partial(river_models.run, river_models.linear),
        ("river",),
        seeded=False,
    ),
    Contestant(
        "Floor",
        "River: the most frequent class / the mean, so far",
        functools.partial(river_models.run, river_models.floor),
        ("river",),
        seeded=False,
    ),
    Contestant("Last", "the last label / the last target", _last, (), seeded=False),
)

FIRST_GENERATION = Contestant(
    "BNP 1",
    "BNPClassifier(learner=1) / BNPRegressor(learner=1), the learner before neighbours and stack",
    functools.partial(_bnp, {"learner": 1}),
    _OURS,
    ours=True,
)
#: All contestants by name.
BY_NAME = {contestant.name: contestant for contestant in (*CONTESTANTS, FIRST_GENERATION)}
