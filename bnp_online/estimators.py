"""Estimators with the interface of River: a classifier and a regressor."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from river import base
from torch import nn

from . import checkpoint
from .backbone import Backbone
from .encoding import LabelIndex, NumberTargets
from .engines.base import Task
from .engines.devices import available
from .errors import BackboneError, CheckpointError, ConfigurationError, SampleError, StateError
from .frames import predictions, probabilities, rows_of
from .learner import OnlineLearner
from .parameters import EARLIER, documented
from .sparse import SparseStage
from .values import Label, at_row


class _Estimator(OnlineLearner, base.Estimator):
    """Online learner with the interface of River."""

    def _get_params(self) -> dict[str, Any]:
        # River mistakes a tuple for a class with parameters, and fails on an empty one.
        parameters: dict[str, Any] = super()._get_params()
        for name in ("hidden", "text", "sparse"):
            if not parameters[name]:
                parameters[name] = []
        return parameters

    @abstractmethod
    def predict_one(self, x: Any, **kwargs: Any) -> Any:
        """Predict the target of a sample."""

    def predict_many(self, X: Any) -> Any:
        """Predict the targets of rows.

        Parameters
        ----------
        X : data frame, dict of columns, sequence of dicts, or array of shape (N, *input_shape)
            The samples.

        Returns
        -------
        list or series
            The predictions; for a data frame a series of its library, with its index.

        Raises
        ------
        SampleError
            If a feature is invalid; with the number of the row.
        """
        table = rows_of(X)
        at_once = self.predict_on_gpu(table.samples)
        if at_once is None:
            values = [at_row(self.predict_one, i, x) for i, x in enumerate(table.samples)]
        else:
            values = [each.value for each in at_once]
        return predictions(values, table.frame)


@documented
@dataclass(eq=False, repr=False)
class BNPClassifier(_Estimator, base.MiniBatchClassifier):
    """Neural network for classification that learns one sample at a time.

    Features and classes may appear at any time. A new one does not change the existing logits when it
    appears.

    Parameters
    ----------
    {parameters}

    References
    ----------
    Lange, Helfrich, Ye, *Batch Normalization Preconditioning for Neural Network Training*, JMLR 23(72), 2022.

    Examples
    --------
    >>> clf = BNPClassifier(hidden=(16,))
    >>> for i in range(50):
    ...     clf.learn_one({"size": i % 2, "colour": "red"}, ["cat", "dog"][i % 2])
    >>> clf.predict_one({"size": 1})
    'dog'
    """

    task: ClassVar[Task] = "classification"

    intervals: int = field(default=0, init=False)

    def _begin(self) -> None:
        super()._begin()
        self._targets = LabelIndex(self.max_classes)

    @property
    def _multiclass(self) -> bool:
        return True

    @property
    def labels(self) -> tuple[Label, ...]:
        """Classes in order of arrival."""
        return tuple(self._targets.labels)

    @property
    def _classes(self) -> tuple[Label, ...]:
        return self.labels

    def predict_proba_one(self, x: Any, **kwargs: Any) -> dict[Label, float]:
        """Return the probability of each class, in order of arrival; empty before the first label.

        Parameters
        ----------
        x : dict, or array of shape `input_shape`
            A sample; unknown features are ignored.
        **kwargs
            Ignored; River passes them.

        Raises
        ------
        SampleError
            If a feature cannot be used.
        """
        probabilities: dict[Label, float] = self.predict(x).probabilities
        return probabilities

    def predict_proba_many(self, X: Any) -> Any:
        """Return the probability of each class for rows.

        Parameters
        ----------
        X : data frame, dict of columns, sequence of dicts, or array of shape (N, *input_shape)
            The samples.

        Returns
        -------
        list of dict, or data frame
            For a data frame one of its library, with its index and a column per class.

        Raises
        ------
        SampleError
            If a feature is invalid; with the number of the row.
        """
        table = rows_of(X)
        at_once = self.predict_on_gpu(table.samples)
        if at_once is None:
            rows = [at_row(self.predict_proba_one, i, x) for i, x in enumerate(table.samples)]
        else:
            rows = [each.probabilities for each in at_once]
        return probabilities(rows, self.labels, table.frame)

    def predict_one(self, x: Any, **kwargs: Any) -> Label | None:
        """Return the most probable class (the earliest of equals); None before the first label.

        Parameters and errors are those of `predict_proba_one`.
        """
        outputs = self._outputs(x)
        return None if outputs is None else self._targets.labels[outputs.argmax()]

    def _limit_classes(self, max_classes: int) -> None:
        if max_classes < max(len(self._targets), 1):
            raise ConfigurationError("max_classes", f"the model has {len(self._targets)} classes")
        self.max_classes = self._targets.max_classes = max_classes

    def _targets_state(self) -> dict[str, Any]:
        return {"labels": self._targets.labels[:]}

    def _restore(self, state: Mapping[str, Any], stage: SparseStage | None = None) -> None:
        labels = LabelIndex(self.max_classes)
        try:
            for label in state["labels"]:
                labels.add(labels.check(label))
            outputs = state["tensors"]["network.head.bias"].shape[-1]
        except (KeyError, TypeError, AttributeError, IndexError, SampleError) as error:
            raise StateError(f"the state is damaged: {error!r}") from error
        if len(labels) != outputs:
            raise StateError(f"the state has {len(labels)} classes for {outputs} outputs")
        super()._restore(state, stage)
        self._targets = labels


@documented
@dataclass(eq=False, repr=False)
class BNPRegressor(_Estimator, base.MiniBatchRegressor):
    """Neural network for regression that learns one sample at a time.

    Targets are standardized with running moments. Errors are clipped to 5 standard deviations (Huber). The
    step of each layer is divided by its gain to the output. Predictions are clipped to the range of the
    targets so far, widened by half.

    Parameters
    ----------
    {parameters}

    References
    ----------
    Lange, Helfrich, Ye, *Batch Normalization Preconditioning for Neural Network Training*, JMLR 23(72), 2022.

    Examples
    --------
    >>> reg = BNPRegressor(hidden=(16,))
    >>> for i in range(300):
    ...     reg.learn_one({"a": i % 7}, 2.0 * (i % 7))
    >>> abs(reg.predict_one({"a": 4}) - 8.0) < 0.5
    True
    """

    task: ClassVar[Task] = "regression"

    max_classes: int = field(default=0, init=False)

    def _begin(self) -> None:
        super()._begin()
        self._targets = NumberTargets()

    def _restore(self, state: Mapping[str, Any], stage: SparseStage | None = None) -> None:
        super()._restore(state, stage)
        self._targets = NumberTargets(started=self._step > 0)

    def predict_one(self, x: Any, **kwargs: Any) -> float:
        """Return the prediction for a sample; 0.0 before the first target.

        Parameters and errors are those of `BNPClassifier.predict_proba_one`.
        """
        outputs = self._outputs(x)
        return 0.0 if outputs is None else float(outputs[0])

    def predict_interval_one(self, x: Any, level: float = 0.9) -> tuple[float, float] | None:
        """Return a predictive interval for the target of a sample.

        It depends on `x` and adapts to drift: see `bnp_online.intervals`. The model does not change.

        Parameters
        ----------
        x : dict, or array of shape `input_shape`
            A sample; unknown features are ignored.
        level : float
            Coverage: the share of targets in the interval, in (0, 1).

        Returns
        -------
        tuple of (float, float) or None
            Lower and upper end; None before 20 errors.

        Raises
        ------
        ConfigurationError
            If the model has no `intervals`.
        SampleError
            If a feature cannot be used, or the level is not in (0, 1).

        Examples
        --------
        >>> reg = BNPRegressor(hidden=(16,), intervals=32)
        >>> for i in range(300):
        ...     reg.learn_one({"a": i % 7}, 2.0 * (i % 7) + i % 2)
        >>> low, high = reg.predict_interval_one({"a": 4}, 0.9)
        >>> low < 8.5 < high and high - low < 5.0
        True
        """
        if self._intervals is None:
            raise ConfigurationError("intervals", "is 0: create the model with intervals=32")
        if not isinstance(level, float | int) or not 0.0 < level < 1.0:
            raise SampleError("invalid_level", "level", f"{level!r:.40} is not a number between 0 and 1")
        features = self._row_of(x)
        outputs = self._outputs_of(features)
        if outputs is None:
            return None
        prediction = float(outputs[0])
        radius = self._intervals.radius(features.reshape(-1), prediction, level)
        return None if radius is None else (prediction - radius, prediction + radius)


_ESTIMATORS = {"BNPClassifier": BNPClassifier, "BNPRegressor": BNPRegressor}


def load(
    path: str | os.PathLike[str],
    network: nn.Module | None = None,
    *,
    device: str | None = None,
    backbone: Backbone | None = None,
) -> BNPClassifier | BNPRegressor:
    """Return the estimator in a file from ``save``.

    Parameters
    ----------
    path : path
        The file.
    network : torch.nn.Module
        For an estimator with a custom module: a module of the same architecture (a file has numbers, never
        code).
    device : str, optional
        Device of the estimator: ``"auto"``, ``"cpu"``, ``"cuda"`` or a GPU by its number, such as
        ``"cuda:1"``. By default it is that of the saved one; where this machine does not have it, ``"auto"``,
        with a warning.
    backbone : Backbone
        For an estimator with a frozen backbone: the same backbone (a file has the state of the head alone).

    Raises
    ------
    CheckpointError
        If the file is damaged, or is not a checkpoint.
    StateError
        If `network` is needed and missing, or does not fit.
    ConfigurationError
        If this machine does not have the given device.
    BackboneError
        If `backbone` is needed and missing, or is another one.

    Examples
    --------
    >>> import tempfile
    >>> clf = BNPClassifier(hidden=(8,))
    >>> clf.learn_one({"a": 1.0}, "yes")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clf.save(f"{folder}/model")
    ...     same = load(f"{folder}/model", device="cpu")
    >>> same.fingerprint() == clf.fingerprint()
    True
    """
    state = checkpoint.load(path)
    if state.get("estimator") not in _ESTIMATORS:
        raise CheckpointError(f"holds {state.get('estimator')!r}, not one of {sorted(_ESTIMATORS)}")
    parameters = {**EARLIER, **state["parameters"]}
    if isinstance(parameters["network"], dict):
        if network is None:
            kind = parameters["network"]["module"]
            raise StateError(f"the file is of a model with a custom module: pass network={kind}(...)")
        parameters["network"] = network
    parameters["backbone"] = _same(backbone, parameters["backbone"], parameters.pop("backbone_sha256", None))
    for name in ("hidden", "input_shape", "text", "sparse"):
        if parameters[name] is not None:
            parameters[name] = tuple(parameters[name])
    parameters["device"] = available(parameters["device"]) if device is None else device
    estimator: BNPClassifier | BNPRegressor = _ESTIMATORS[state["estimator"]](**parameters)
    estimator.load_state_dict(state)
    return estimator


def _same(backbone: Backbone | None, name: str | None, sha256: str | None) -> Backbone | None:
    """Return the backbone of a saved estimator."""
    if name is None:
        return None
    if backbone is None:
        raise BackboneError(f"the model needs its backbone: pass backbone=load_backbone({name!r})")
    backbone.require(sha256)
    return backbone
