"""Every call of the server, as a request and how its answer is read; `Client` and `AsyncClient` run them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

from . import schemas
from .exchange import Call, Request, encode, reader
from .schemas import DEFAULT_MODEL

Label: TypeAlias = bool | int | str

JSON, BYTES = "application/json", "application/octet-stream"


def new_id() -> str:
    """Return an id that no other sample has."""
    return uuid.uuid4().hex


def learn_one(
    x: Any, y: Any, *, model: str = DEFAULT_MODEL, id: str | None = None, w: float = 1.0
) -> Call[schemas.LearnAnswer]:
    """Learn a sample; returns once it is learned and durable.

    Parameters
    ----------
    x : dict, or nested list or array
        Features.
    y : bool, int, str or float
        Class, or number to predict.
    model : str
        Name of the model.
    id : str
        Under which it is learned once, however often it is sent; by default a new one.
    w : float
        Scales the step, ≥ 0.

    Notes
    -----
    If an answer was lost on the way, the sample is sent again, and the answer says ``duplicate``: then the
    prediction and the loss are None.
    """
    body = learn_body(x, y, model, id, w)
    return Call(_post("/learn", body), reader(schemas.LearnAnswer))


def learn_body(x: Any, y: Any, model: str, id: str | None, w: float) -> dict[str, Any]:
    """Return the body that learns a sample; it has an id."""
    body = {"x": x, "y": y, "model": model, "id": new_id() if id is None else id}
    return body if w == 1.0 else {**body, "w": w}


def predict_one(
    x: Any, *, model: str = DEFAULT_MODEL, id: str | None = None, interval: float | None = None
) -> Call[schemas.PredictAnswer]:
    """Predict a sample; with an id the prediction is kept for `label`.

    Parameters
    ----------
    x : dict, or nested list or array
        Features.
    model : str
        Name of the model.
    id : str
        Under which it waits for its label.
    interval : float
        Level in (0, 1) of the interval that the answer is to have, of a regression made with ``intervals``.
    """
    given = {"id": id, "interval": interval}
    body = {"x": x, "model": model, **{name: value for name, value in given.items() if value is not None}}
    return Call(_post("/predict", body), reader(schemas.PredictAnswer))


def predict_proba_one(x: Any, *, model: str = DEFAULT_MODEL) -> Call[dict[Label, float]]:
    """Return the probability of each class, in order of arrival; empty before the first label."""
    call = predict_one(x, model=model)
    return Call(call.request, lambda body: probabilities(call.read(body)))


def probabilities(answer: schemas.PredictAnswer) -> dict[Label, float]:
    """Return the probabilities of an answer by label, in the type that the labels have.

    Examples
    --------
    >>> kept = {"true": 0.75, "false": 0.25}
    >>> probabilities(
    ...     schemas.PredictAnswer(model="m", step=2, prediction=True, probabilities=kept, id=None)
    ... )
    {True: 0.75, False: 0.25}
    """
    named = answer.probabilities or {}
    # All labels of a model are of one type, which JSON's keys have lost and the prediction has not.
    if isinstance(answer.prediction, bool):
        return {name == "true": p for name, p in named.items()}
    if isinstance(answer.prediction, int):
        return {int(name): p for name, p in named.items()}
    return {name: p for name, p in named.items()}  # noqa: C416 (a dict of str is none of Label)


def label(id: str, y: Any, *, model: str = DEFAULT_MODEL) -> Call[schemas.LearnAnswer]:
    """Learn the label of an earlier prediction, which is scored as it was given at the time.

    Raises
    ------
    UnknownIdError
        If no prediction waits under this id.
    AlreadyLabelledError
        If it has its label: it was learned once, by an attempt whose answer was lost or by somebody else.
    """
    return Call(_post("/label", {"id": id, "y": y, "model": model}), reader(schemas.LearnAnswer))


def models() -> Call[schemas.ModelList]:
    """List the models, in the order in which they were made."""
    return _get("/models", schemas.ModelList)


def describe(model: str = DEFAULT_MODEL) -> Call[schemas.ModelDescription]:
    """Tell what a model was told to be, and what it became."""
    return _get(_of(model), schemas.ModelDescription)


def create(name: str, task: str = "classification", **spec: Any) -> Call[schemas.ModelDescription]:
    """Make a model; further arguments are those of ``POST /models``, such as ``hidden`` and ``lr``.

    Raises
    ------
    ModelExistsError
        If there is one of this name.
    """
    request = _post("/models", {"name": name, "task": task, **spec})
    return Call(request, reader(schemas.ModelDescription), repeatable=False)


def patch(model: str = DEFAULT_MODEL, **changes: Any) -> Call[schemas.ModelDescription]:
    """Change what may change while a model lives: ``max_features``, ``max_classes``, ``drift``."""
    request = Request("PATCH", _of(model), encode(changes), JSON)
    return Call(request, reader(schemas.ModelDescription))


def delete(model: str) -> Call[None]:
    """Delete a model and every trace of what it learned."""
    return Call(Request("DELETE", _of(model)), lambda body: None, repeatable=False)


def metrics(model: str = DEFAULT_MODEL) -> Call[schemas.Scores]:
    """Tell how good the predictions were, each made before its sample was learned."""
    return _get(_of(model, "metrics"), schemas.Scores)


def fingerprint(model: str = DEFAULT_MODEL) -> Call[schemas.Fingerprint]:
    """Digest all that learning changes."""
    return _get(_of(model, "fingerprint"), schemas.Fingerprint)


def checkpoints(model: str = DEFAULT_MODEL) -> Call[schemas.CheckpointList]:
    """List the checkpoints that are kept, the newest first."""
    return _get(_of(model, "checkpoints"), schemas.CheckpointList)


def checkpoint(model: str = DEFAULT_MODEL) -> Call[schemas.CheckpointAnswer]:
    """Keep the state as it is."""
    request = Request("POST", _of(model, "checkpoints"))
    return Call(request, reader(schemas.CheckpointAnswer), repeatable=False)


def rollback(
    model: str = DEFAULT_MODEL, *, step: int | None = None, checkpoint: str | None = None
) -> Call[schemas.RollbackAnswer]:
    """Go back to a step or to a checkpoint, exactly.

    Notes
    -----
    If its answer is lost, it is not sent again: others may have gone on from there.
    """
    where: Mapping[str, Any] = {"step": step, "checkpoint": checkpoint}
    body = {name: value for name, value in where.items() if value is not None}
    return Call(_post(_of(model, "rollback"), body), reader(schemas.RollbackAnswer), repeatable=False)


def forget(ids: Sequence[str], *, model: str = DEFAULT_MODEL) -> Call[schemas.ForgetAnswer]:
    """Unlearn samples by their ids."""
    return Call(_post(_of(model, "forget"), {"ids": list(ids)}), reader(schemas.ForgetAnswer))


def export(model: str = DEFAULT_MODEL) -> Call[bytes]:
    """Return the model as a safetensors file, which `bnp_online.load` reads."""
    return Call(Request("GET", _of(model, "export")), bytes)


def import_(file: bytes, *, model: str = DEFAULT_MODEL) -> Call[schemas.ModelDescription]:
    """Put the model in a file in the place of one that is there; it may be sent again, to the same end."""
    request = Request("PUT", _of(model, "import"), file, BYTES)
    return Call(request, reader(schemas.ModelDescription))


def ready() -> Call[schemas.Health]:
    """Ask whether the server is ready; waits for it as long as patience lasts."""
    return _get("/health/ready", schemas.Health)


def _of(model: str, part: str = "") -> str:
    path = f"/models/{quote(model, safe='')}"
    return f"{path}/{part}" if part else path


def _post(path: str, body: Mapping[str, Any]) -> Request:
    return Request("POST", path, encode(body), JSON)


def _get(path: str, answer: type[Any]) -> Call[Any]:
    return Call(Request("GET", path), reader(answer))
