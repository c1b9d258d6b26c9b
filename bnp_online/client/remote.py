"""River estimators whose model is on a server."""

from __future__ import annotations

import uuid
import weakref
from typing import Any, ClassVar, Self, cast

from pydantic import SecretStr
from river import base

from .calls import Label, new_id
from .clients import DEFAULT_URL, Client


class _Remote(base.Estimator):
    """A handle on a model of a server."""

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
        self.key = SecretStr(key) if isinstance(key, str) else key  # it must not show in `repr`
        self.timeout = timeout
        self.patience = patience
        self.spec = spec
        self._own: str | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client behind it."""
        if self._client is None:
            key = None if self.key is None else self.key.get_secret_value()
            self._client = Client(self.url, key=key, timeout=self.timeout, patience=self.patience)
            # River drops estimators, clones above all, without a word: their connections go with them.
            weakref.finalize(self, self._client.close)
        return self._client

    @property
    def name(self) -> str:
        """Name of the model on the server; one of its own is made when it is first asked for."""
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
        """Learn a sample; `w` scales the step."""
        self.client.learn_one(x, y, model=self.name, id=new_id(), w=w)

    def delete(self) -> None:
        """Delete the model of its own that it made on the server; a named one stays."""
        if self._own is not None:
            self.client.delete(self._own)
            self._own = None

    def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copy learns on its own, so its model is one of its own, where this one's is.
        twin = self.clone()
        if self._own is not None:
            twin._own = twin._make()
            twin.client.import_(self.client.export(self._own), model=twin._own)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # Connections stay here; whoever unpickles it has another handle on the same model.
        return {**self.__dict__, "_client": None}


class RemoteClassifier(_Remote, base.Classifier):
    """River classifier whose model learns on a server.

    Parameters
    ----------
    url : str
        Of the server.
    model : str
        Name of a model that is there: then clones and copies are further handles on it. By default one is
        made at the first sample, and every clone and copy makes one of its own; that needs a key with the
        scope admin. `delete` removes it.
    key : str or SecretStr
        API key, if the server has any.
    timeout, patience : float
        As for `Client`.
    spec : dict
        Of the model that is made, as ``POST /models`` takes it.

    Notes
    -----
    Pickled, it is its parameters and the name of its model, not what that has learned; the key is among them.
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
    """River regressor whose model learns on a server.

    Parameters
    ----------
    url : str
        Of the server.
    model : str
        Name of a model that is there: then clones and copies are further handles on it. By default one is
        made at the first sample, and every clone and copy makes one of its own; that needs a key with the
        scope admin. `delete` removes it.
    key : str or SecretStr
        API key, if the server has any.
    timeout, patience : float
        As for `Client`.
    spec : dict
        Of the model that is made, as ``POST /models`` takes it.

    Notes
    -----
    Pickled, it is its parameters and the name of its model, not what that has learned; the key is among them.
    """

    _task = "regression"

    def predict_one(self, x: Any, **kwargs: Any) -> float | None:  # type: ignore[override]  # None before the first target
        """Return the prediction for a sample; None before the first target."""
        prediction = self.client.predict_one(x, model=self.name).prediction
        return None if prediction is None else float(prediction)

    def predict_interval_one(self, x: Any, level: float = 0.9) -> tuple[float, float] | None:
        """Return low and high of an interval that is to hold the target; None before 20 errors were seen.

        The model must have been made with ``intervals``, as by ``spec={"intervals": 32}``.
        """
        return self.client.predict_one(x, model=self.name, interval=level).interval
