"""River estimators with a model on a server."""

from __future__ import annotations

import uuid
import weakref
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

from pydantic import SecretStr
from river import base

from ..errors import SampleError
from ..frames import predictions, probabilities, rows_of, values_of
from ..values import at_row, check_label, check_number
from . import calls, values
from .calls import Label
from .clients import DEFAULT_URL, Client
from .errors import ServerError, SharedModelError, unsendable
from .schemas import PredictAnswer


class _Remote(base.Estimator):
    """Base of the two estimators: a model of a server."""

    _task: ClassVar[str]

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        model: str | None = None,
        key: str | SecretStr | None = None,
        timeout: float = 30.0,
        patience: float = 30.0,
        spec: dict[str, Any] | None = None,
    ) -> None:
        self.url = url
        self.model = model
        self.key = SecretStr(key) if isinstance(key, str) else key  # hidden in `repr`
        self.timeout = timeout
        self.patience = patience
        self.spec = spec
        self._own: str | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """Client of the server."""
        if self._client is None:
            key = None if self.key is None else self.key.get_secret_value()
            self._client = Client(self.url, key=key, timeout=self.timeout, patience=self.patience)
            # River discards estimators without closing them, clones in particular.
            weakref.finalize(self, self._client.close)
        return self._client

    @property
    def name(self) -> str:
        """Name of the model on the server; the first access creates a model if none was given."""
        if self.model is not None:
            return self.model
        if self._own is None:
            self._own = self._make()
        return self._own

    def _make(self) -> str:
        name = f"river-{uuid.uuid4().hex}"
        self.client.create(name, self._task, **(self.spec or {}))
        return name

    def learn_one(self, x: Any, y: Any, w: float = 1.0, **kwargs: Any) -> None:
        """Learn a sample; `w` is a factor of the step."""
        with unsendable():
            target = self._check(y)
        self.client.learn_one(x, target, model=self.name, w=w)

    def learn_many(self, X: Any, y: Any) -> None:
        """Learn rows in order, one step each, in requests of up to 1,000 rows.

        Parameters
        ----------
        X : data frame, dict of columns, sequence of dicts, or array of shape (N, *input_shape)
            The samples. A data frame is of pandas, polars or Arrow.
        y : series or sequence
            Their targets.

        Raises
        ------
        InvalidSampleError
            If a row cannot be sent; with its number. No row was sent.
        ServerError
            If the server refused a row, e.g. because the type of its label is not that of the model; with the
            number of the row. The other rows are learned.
        """
        with unsendable():
            rows, targets = rows_of(X).samples, values_of(y, "y")
            if len(rows) != len(targets):
                raise SampleError("wrong_shape", "y", f"has {len(targets)} targets for {len(rows)} samples")
            samples = [
                (at_row(values.features, i, x), at_row(self._check, i, target))
                for i, (x, target) in enumerate(zip(rows, targets, strict=True))
            ]
        for _, error in self.client.learn_many(samples, model=self.name).refusals:
            raise error

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
        ServerError
            If a row is invalid; with its number.
        """
        answers, frame = self._predict_rows(X)
        return predictions([self._prediction(answer) for answer in answers], frame)

    def _predict_rows(self, X: Any) -> tuple[list[PredictAnswer], Any]:
        """Return the answers for rows, and the data frame from which the rows come."""
        with unsendable():
            table = rows_of(X)
            xs = [at_row(values.features, i, x) for i, x in enumerate(table.samples)]
        answers = []
        for answer in self.client.predict_many(xs, model=self.name):
            if isinstance(answer, ServerError):
                raise answer
            answers.append(answer)
        return answers, table.frame

    @staticmethod
    @abstractmethod
    def _check(y: object) -> Any:
        """Return a target as an estimator reads it; raises SampleError."""

    @staticmethod
    @abstractmethod
    def _prediction(answer: PredictAnswer) -> Any:
        """Return the prediction in an answer."""

    def delete(self) -> None:
        """Delete the model that this estimator created on the server; a given model stays."""
        if self._own is not None:
            self.client.delete(self._own)
            self._own = None

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def clone(self, new_params: dict[str, Any] | None = None, include_attributes: bool = False) -> Self:
        """Return an estimator with the same parameters, which creates a model of its own.

        Parameters
        ----------
        new_params : dict
            Other parameters of the clone.
        include_attributes : bool
            Whether the model of the clone begins as a copy of this one's.

        Raises
        ------
        SharedModelError
            If `model` was given, and is not replaced: the clone would learn into the same model.
        """
        given = {**self._get_params(), **(new_params or {})}["model"]
        if given is not None and given == self.model:
            raise SharedModelError(
                f"a clone or copy of this estimator would learn into the same model {self.model!r}: leave "
                "out `model`, so that each clone creates a model of its own (`spec` has its parameters), or "
                'give the clone another model: clone({"model": NAME})'
            )
        twin = super().clone(new_params)
        if include_attributes and self._own is not None and given is None:
            twin._own = twin._make()
            twin.client.import_(self.client.export(self._own), model=twin._own)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.clone(include_attributes=True)  # a copy learns independently

    def __getstate__(self) -> dict[str, Any]:
        # Without connections.
        return {**self.__dict__, "_client": None}


class RemoteClassifier(_Remote, base.MiniBatchClassifier):
    """River classifier with a model on a server.

    Parameters
    ----------
    url : str or sequence of str
        URL of the server, or of several nodes of a cluster.
    model : str
        Name of an existing model. By default a new model is created at the first sample, and each clone and
        copy creates its own; this needs a key with the scope admin, and `delete` removes such a model. An
        estimator with a given model cannot be cloned, so that no two estimators learn into one model. Most
        of River's ensembles clone.
    key : str or SecretStr
        API key, if the server requires one.
    timeout, patience : float
        As for `Client`.
    spec : dict
        Parameters of a new model, as for ``POST /models``.

    Notes
    -----
    A pickle has the parameters, the key included, and the name of the model, not the state of the model.
    """

    _task = "classification"

    @property
    def _multiclass(self) -> bool:
        return True

    def predict_one(self, x: Any, **kwargs: Any) -> Label | None:
        """Return the most probable class; None before the first label."""
        return self._prediction(self.client.predict_one(x, model=self.name))

    def predict_proba_one(self, x: Any, **kwargs: Any) -> dict[Label, float]:
        """Return the probability of each class, in order of arrival; empty before the first label."""
        return self.client.predict_proba_one(x, model=self.name)

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
        ServerError
            If a row is invalid; with its number.
        """
        answers, frame = self._predict_rows(X)
        rows = [calls.probabilities(answer) for answer in answers]
        # Others may learn meanwhile: later answers have at least the classes of earlier ones.
        labels: Sequence[Label] = [*rows[-1]] if rows else self.client.describe(self.name).classes
        return probabilities(
            [{label: row.get(label, 0.0) for label in labels} for row in rows], labels, frame
        )

    @staticmethod
    def _check(y: object) -> Label:
        return check_label(y)

    @staticmethod
    def _prediction(answer: PredictAnswer) -> Label | None:
        return cast(Label | None, answer.prediction)


class RemoteRegressor(_Remote, base.MiniBatchRegressor):
    """River regressor with a model on a server.

    Parameters
    ----------
    url : str or sequence of str
        URL of the server, or of several nodes of a cluster.
    model : str
        Name of an existing model. By default a new model is created at the first sample, and each clone and
        copy creates its own; this needs a key with the scope admin, and `delete` removes such a model. An
        estimator with a given model cannot be cloned, so that no two estimators learn into one model. Most
        of River's ensembles clone.
    key : str or SecretStr
        API key, if the server requires one.
    timeout, patience : float
        As for `Client`.
    spec : dict
        Parameters of a new model, as for ``POST /models``.

    Notes
    -----
    A pickle has the parameters, the key included, and the name of the model, not the state of the model.
    """

    _task = "regression"

    def predict_one(self, x: Any, **kwargs: Any) -> float:
        """Return the prediction for a sample; 0.0 before the first target."""
        return self._prediction(self.client.predict_one(x, model=self.name))

    @staticmethod
    def _check(y: object) -> float:
        return check_number(y)

    @staticmethod
    def _prediction(answer: PredictAnswer) -> float:
        return 0.0 if answer.prediction is None else float(answer.prediction)

    def predict_interval_one(self, x: Any, level: float = 0.9) -> tuple[float, float] | None:
        """Return a predictive interval (low, high); None before 20 errors have been observed.

        The model needs the parameter ``intervals``, such as ``spec={"intervals": 32}``.
        """
        return self.client.predict_one(x, model=self.name, interval=level).interval
