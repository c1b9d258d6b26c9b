"""River estimators with a model on a server."""

from __future__ import annotations

import uuid
import weakref
from typing import Any, ClassVar, Self, cast

from pydantic import SecretStr
from river import base

from .calls import Label, new_id
from .clients import DEFAULT_URL, Client


class _Remote(base.Estimator):
    """Base of the two estimators: a model of a server."""

    _task: ClassVar[str]

    def __init__(
        self,
        url: str = DEFAULT_URL,
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
        self.client.learn_one(x, y, model=self.name, id=new_id(), w=w)

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

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copy learns independently, so it gets a model of its own unless the model was given.
        twin = self.clone()
        if self._own is not None:
            twin._own = twin._make()
            twin.client.import_(self.client.export(self._own), model=twin._own)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # Without connections.
        return {**self.__dict__, "_client": None}


class RemoteClassifier(_Remote, base.Classifier):
    """River classifier with a model on a server.

    Parameters
    ----------
    url : str
        URL of the server.
    model : str
        Name of an existing model, which clones and copies share. By default a new model is created at the
        first sample, and each clone and copy creates its own; this needs a key with the scope admin.
        `delete` removes such a model.
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
        return cast(Label | None, self.client.predict_one(x, model=self.name).prediction)

    def predict_proba_one(self, x: Any, **kwargs: Any) -> dict[Label, float]:
        """Return the probability of each class, in order of arrival; empty before the first label."""
        return self.client.predict_proba_one(x, model=self.name)


class RemoteRegressor(_Remote, base.Regressor):
    """River regressor with a model on a server.

    Parameters
    ----------
    url : str
        URL of the server.
    model : str
        Name of an existing model, which clones and copies share. By default a new model is created at the
        first sample, and each clone and copy creates its own; this needs a key with the scope admin.
        `delete` removes such a model.
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
        prediction = self.client.predict_one(x, model=self.name).prediction
        return 0.0 if prediction is None else float(prediction)

    def predict_interval_one(self, x: Any, level: float = 0.9) -> tuple[float, float] | None:
        """Return a predictive interval (low, high); None before 20 errors have been observed.

        The model needs the parameter ``intervals``, such as ``spec={"intervals": 32}``.
        """
        return self.client.predict_one(x, model=self.name, interval=level).interval
