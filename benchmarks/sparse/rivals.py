"""Contestants: the library's estimators, Vowpal Wabbit and River."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from bnp_online import BNPClassifier, BNPRegressor

from ..common.streams import Stream
from ..quality.contestant import Contestant, Setting
from . import forms, river_models, vowpal
from .passes import Form, Make, Model, run_model
from .river_models import River

_OURS = ("bnp-online", "numba", "numpy", "torch")


def bnp(parameters: Mapping[str, Any], stream: Stream, seed: int, setting: Setting) -> Model:
    """Return BNP with its defaults but `parameters`, and the names of the texts."""
    make = BNPClassifier if stream.task == "classification" else BNPRegressor
    return River(make(seed=seed, text=stream.texts, **parameters))


#: By name of a contestant: its model, and the form in which it takes samples.
MODELS: dict[str, tuple[Make, Form]] = {
    "BNP": (functools.partial(bnp, {}), forms.given),
    "BNP, replay=0": (functools.partial(bnp, {"replay": 0}), forms.given),
    "VW*": (functools.partial(vowpal.make, ""), forms.lines),
    "VW -q*": (functools.partial(vowpal.make, "-q ::"), forms.lines),
    "VW --nn*": (functools.partial(vowpal.make, "--nn 10"), forms.lines),
    "Linear*": (river_models.linear, forms.columns),
    "FTRL*": (river_models.ftrl, forms.columns),
    "Bayes*": (river_models.bayes, forms.counts),
    "FM*": (river_models.factorization, forms.columns),
    "Floor": (river_models.floor, forms.columns),
}


def _contestant(name: str, about: str, packages: tuple[str, ...], **options: Any) -> Contestant:
    return Contestant(name, about, functools.partial(run_model, *MODELS[name]), packages, **options)


#: A pass beyond this takes a minute or more, and there are ten.
_FM_MOST = 150_000
_VW, _RIVER = ("vowpalwabbit",), ("river",)
#: In the order in which they run. To add a rival, add an entry here and to `MODELS`.
CONTESTANTS = (
    _contestant("BNP", "BNPClassifier() / BNPRegressor(), with the names of texts", _OURS, ours=True),
    _contestant("BNP, replay=0", "the same without replay", _OURS, ours=True),
    _contestant(
        "VW*",
        "Vowpal Wabbit: logistic loss (--oaa for three classes or more) / squared loss",
        _VW,
        grid={"rate": (0.1, 0.3, 1.0, 3.0, 10.0)},
        seeded=False,
    ),
    _contestant(
        "VW -q*",
        "Vowpal Wabbit: the same with all pairs, -q ::",
        _VW,
        grid={"rate": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)},
        seeded=False,
    ),
    _contestant(
        "VW --nn*",
        "Vowpal Wabbit: the same with --nn 10",
        _VW,
        grid={"rate": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)},
    ),
    _contestant(
        "Linear*",
        "River: LogisticRegression (one vs. rest) / LinearRegression, SGD",
        _RIVER,
        grid={"rate": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)},
        seeded=False,
    ),
    _contestant(
        "FTRL*",
        "River: the same with FTRLProximal",
        _RIVER,
        grid={"rate": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)},
        seeded=False,
    ),
    _contestant(
        "Bayes*",
        "River: MultinomialNB",
        _RIVER,
        grid={"alpha": (0.1, 0.3, 1.0, 3.0, 10.0)},
        seeded=False,
        tasks=("classification",),
    ),
    _contestant(
        "FM*",
        "River: FMClassifier / FMRegressor, 10 factors, SGD",
        _RIVER,
        most=_FM_MOST,
        grid={"rate": (0.003, 0.01, 0.03, 0.1, 0.3)},
    ),
    _contestant("Floor", "River: the shares of the classes / the mean, so far", _RIVER, seeded=False),
)
BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}
#: The default learner, which the tables compare with the rivals.
OURS = CONTESTANTS[0].name
