"""Calls of the HTTP API: each is a request and a reader for the response."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias
from urllib.parse import quote

from . import schemas
from .errors import unsendable
from .exchange import Call, Request, encode, reader
from .schemas import DEFAULT_MODEL

Label: TypeAlias = bool | int | str

JSON, BYTES = "application/json", "application/octet-stream"


def new_id() -> str:
    """Return a random, unique id."""
    return uuid.uuid4().hex


def learn_one(
    x: Any, y: Any, *, model: str = DEFAULT_MODEL, id: str | None = None, w: float = 1.0
) -> Call[schemas.LearnAnswer]:
    """Learn a sample; returns when it is learned and on disk.

    Parameters
    ----------
    x : dict, or nested list or array
        Features, as an estimator accepts them: NaN, NaT, NA and None are missing values, dates and durations
        are seconds. A name that is an integer or a tuple is sent as its string, which is also its name in an
        estimator.
    y : bool, int, str or float
        Class or number.
    model : str
        Name of the model.
    id : str
        Id of the sample. The server learns an id once, however often it is sent; random by default.
    w : float
        Factor of the step, ≥ 0.

    Raises
    ------
    InvalidSampleError
        If the sample is invalid; with the name of the field. A value that JSON does not have, such as
        infinity, is not sent.

    Notes
    -----
    If a response is lost, the sample is sent again. Its answer then has ``duplicate`` set, and prediction and
    loss are None.
    """
    body = learn_body(x, y, model, id, w)
    return Call(_post("/learn", body, model), reader(schemas.LearnAnswer))


def learn_body(x: Any, y: Any, model: str, id: str | None, w: float) -> dict[str, Any]:
    """Return the body of a request that learns a sample, with an id.

    Raises
    ------
    InvalidSampleError
        If the sample cannot be sent.
    """
    from . import values  # on first use: it loads NumPy, and the command line starts without it

    with unsendable():
        body = {"x": values.features(x), "y": values.target(y), "model": model}
        return body | dict(values.fields(id=new_id() if id is None else id, w=w))


def predict_one(
    x: Any,
    *,
    model: str = DEFAULT_MODEL,
    id: str | None = None,
    interval: float | None = None,
    novelty: bool = False,
    min_step: int | None = None,
) -> Call[schemas.PredictAnswer]:
    """Predict a sample; with an id, the server keeps the prediction for `label`.

    Parameters
    ----------
    x : dict, or nested list or array
        Features.
    model : str
        Name of the model.
    id : str
        Id of the prediction.
    interval : float
        Level, in (0, 1), of a predictive interval; for a regression model with ``intervals``.
    novelty : bool
        Whether to tell how unusual the sample is.
    min_step : int
        Number of samples that the model must have learned, such as the step in an answer of `learn_one`. A
        replica may lag behind.
    """
    body = predict_body(x, model, id, interval)
    if novelty:
        body["novelty"] = True
    request = replace(_post("/predict", body, model), reads=id is None, min_step=min_step)
    return Call(request, reader(schemas.PredictAnswer))


def predict_body(x: Any, model: str, id: str | None = None, interval: float | None = None) -> dict[str, Any]:
    """Return the body of a request that predicts a sample; raises as `learn_body`."""
    from . import values  # see `learn_body`

    with unsendable():
        body = {"x": values.features(x), "model": model, **dict(values.fields(id=id))}
    return body if interval is None else {**body, "interval": interval}


def explain(
    x: Any,
    *,
    model: str = DEFAULT_MODEL,
    label: Label | None = None,
    min_step: int | None = None,
) -> Call[schemas.ExplainAnswer]:
    """Return how much each feature moved the prediction for a sample.

    Parameters
    ----------
    x : dict, or nested list or array
        Features.
    model : str
        Name of the model.
    label : bool, int or str
        Class to explain; by default the predicted one.
    min_step : int
        Number of samples that the model must have learned; see `predict_one`.
    """
    from . import values  # see `learn_body`

    body = predict_body(x, model)
    if label is not None:
        with unsendable():
            body["label"] = values.target(label)
    request = replace(_post("/explain", body, model), reads=True, min_step=min_step)
    return Call(request, reader(schemas.ExplainAnswer))


def evidence(x: Any, *, model: str = DEFAULT_MODEL) -> Call[schemas.EvidenceAnswer]:
    """Return which strings and words of a sample speak for which class, the strongest first."""
    body = {"x": predict_body(x, model)["x"]}
    request = replace(_post(_of(model, "evidence"), body, model), reads=True)
    return Call(request, reader(schemas.EvidenceAnswer))


def predict_proba_one(
    x: Any, *, model: str = DEFAULT_MODEL, min_step: int | None = None
) -> Call[dict[Label, float]]:
    """Return the probability of each class, in order of arrival; empty before the first label."""
    call = predict_one(x, model=model, min_step=min_step)
    return Call(call.request, lambda body: probabilities(call.read(body)))


def probabilities(answer: schemas.PredictAnswer) -> dict[Label, float]:
    """Return the probabilities of an answer by label, in the type of the labels.

    Examples
    --------
    >>> kept = {"true": 0.75, "false": 0.25}
    >>> probabilities(
    ...     schemas.PredictAnswer(model="m", step=2, prediction=True, probabilities=kept, id=None)
    ... )
    {True: 0.75, False: 0.25}
    """
    named = answer.probabilities or {}
    # All labels of a model have one type: that of the prediction. JSON keys are strings.
    if isinstance(answer.prediction, bool):
        return {name == "true": p for name, p in named.items()}
    if isinstance(answer.prediction, int):
        return {int(name): p for name, p in named.items()}
    return {name: p for name, p in named.items()}  # noqa: C416 (a dict of str is none of Label)


def label(id: str, y: Any, *, model: str = DEFAULT_MODEL) -> Call[schemas.LearnAnswer]:
    """Learn the label of an earlier prediction, and score that prediction.

    Raises
    ------
    UnknownIdError
        If no prediction with this id waits for its label.
    AlreadyLabelledError
        If the label was learned before, by another client or by an attempt with a lost response.
    """
    from . import values  # see `learn_body`

    with unsendable():
        body = {"id": id, "y": values.target(y), "model": model}
    return Call(_post("/label", body, model), reader(schemas.LearnAnswer))


def models() -> Call[schemas.ModelList]:
    """List the models in order of creation."""
    return _get("/models", schemas.ModelList)


def describe(model: str = DEFAULT_MODEL) -> Call[schemas.ModelDescription]:
    """Describe a model: its parameters and its state."""
    return _get(_of(model), schemas.ModelDescription, model)


def create(name: str, task: str = "classification", **spec: Any) -> Call[schemas.ModelDescription]:
    """Create a model; other arguments are those of ``POST /models``, such as ``hidden`` and ``lr``.

    Raises
    ------
    ModelExistsError
        If a model of this name exists.
    """
    request = _post("/models", {"name": name, "task": task, **spec}, name)
    return Call(request, reader(schemas.ModelDescription), repeatable=False)


def patch(model: str = DEFAULT_MODEL, **changes: Any) -> Call[schemas.ModelDescription]:
    """Change ``max_features``, ``max_classes``, ``max_values`` or ``drift`` of a model."""
    request = Request("PATCH", _of(model), encode(changes), JSON, model)
    return Call(request, reader(schemas.ModelDescription))


def delete(model: str) -> Call[bool]:
    """Delete a model and all its data.

    Returns
    -------
    bool
        Whether all its data is erased. Otherwise the server erases the rest later, e.g. when its disk has
        free space.
    """
    return Call(Request("DELETE", _of(model), model=model), lambda body: not body, repeatable=False)


def metrics(model: str = DEFAULT_MODEL) -> Call[schemas.Scores]:
    """Return prequential scores: each sample is predicted before it is learned."""
    return _get(_of(model, "metrics"), schemas.Scores, model)


def fingerprint(model: str = DEFAULT_MODEL, *, shadow: str | None = None) -> Call[schemas.Fingerprint]:
    """Return digests of the state of a model, or of one of its shadows."""
    path = _of(model, "fingerprint") + (f"?shadow={quote(shadow, safe='')}" if shadow else "")
    return _get(path, schemas.Fingerprint, model)


def checkpoints(model: str = DEFAULT_MODEL) -> Call[schemas.CheckpointList]:
    """List the checkpoints of a model, newest first."""
    return _get(_of(model, "checkpoints"), schemas.CheckpointList, model)


def checkpoint(model: str = DEFAULT_MODEL) -> Call[schemas.CheckpointAnswer]:
    """Save a checkpoint of a model."""
    request = Request("POST", _of(model, "checkpoints"), model=model)
    return Call(request, reader(schemas.CheckpointAnswer), repeatable=False)


def rollback(
    model: str = DEFAULT_MODEL, *, step: int | None = None, checkpoint: str | None = None
) -> Call[schemas.RollbackAnswer]:
    """Restore the state of a model at a step or a checkpoint, exactly.

    Notes
    -----
    The request is not repeated when its response is lost: the model may have learned more since.
    """
    where: Mapping[str, Any] = {"step": step, "checkpoint": checkpoint}
    body = {name: value for name, value in where.items() if value is not None}
    return Call(_post(_of(model, "rollback"), body, model), reader(schemas.RollbackAnswer), repeatable=False)


def forget(ids: Sequence[str], *, model: str = DEFAULT_MODEL) -> Call[schemas.ForgetAnswer]:
    """Unlearn samples, by their ids."""
    return Call(_post(_of(model, "forget"), {"ids": list(ids)}, model), reader(schemas.ForgetAnswer))


def shadows(model: str = DEFAULT_MODEL) -> Call[schemas.ShadowList]:
    """List the shadows of a model, and their comparisons with the model on the same samples."""
    return _get(_of(model, "shadows"), schemas.ShadowList, model)


def add_shadow(
    name: str, task: str | None = None, *, model: str = DEFAULT_MODEL, **spec: Any
) -> Call[schemas.ShadowAnswer]:
    """Create a shadow of a model; other arguments are those of ``POST /models``.

    Parameters
    ----------
    name : str
        Name of the shadow.
    task : str, optional
        Task of the model, which a shadow has by default.
    model : str
        Name of the model.

    Raises
    ------
    ShadowExistsError
        If the model has a shadow of this name.
    """
    given = {} if task is None else {"task": task}
    request = _post(_of(model, "shadows"), {"name": name, **given, **spec}, model)
    return Call(request, reader(schemas.ShadowAnswer), repeatable=False)


def delete_shadow(name: str, *, model: str = DEFAULT_MODEL) -> Call[None]:
    """Delete a shadow of a model."""
    path = _of(model, f"shadows/{quote(name, safe='')}")
    return Call(Request("DELETE", path, model=model), lambda body: None, repeatable=False)


def promote(shadow: str, *, model: str = DEFAULT_MODEL) -> Call[schemas.PromoteAnswer]:
    """Let a shadow and its model change places; the former model stays as a shadow.

    Notes
    -----
    The request is not repeated when its response is lost: see `shadows` for the name of the champion.
    """
    request = _post(_of(model, "promote"), {"shadow": shadow}, model)
    return Call(request, reader(schemas.PromoteAnswer), repeatable=False)


def upgrade(model: str = DEFAULT_MODEL, *, kept: bool = False) -> Call[schemas.UpgradeAnswer]:
    """Relearn the samples of a model with the latest generation of the learner.

    Parameters
    ----------
    kept : bool
        Whether to relearn the samples that the server has, although it lacks earlier ones.
    """
    request = Request("POST", _of(model, "upgrade") + ("?kept=true" if kept else ""), model=model)
    return Call(request, reader(schemas.UpgradeAnswer))


def export(model: str = DEFAULT_MODEL) -> Call[bytes]:
    """Return the model as a safetensors file, which `bnp_online.load` reads."""
    return Call(Request("GET", _of(model, "export"), model=model), bytes)


def import_(file: bytes, *, model: str = DEFAULT_MODEL) -> Call[schemas.ModelDescription]:
    """Replace a model by the model in a file."""
    request = Request("PUT", _of(model, "import"), file, BYTES, model)
    return Call(request, reader(schemas.ModelDescription))


def cluster() -> Call[schemas.ClusterDescription]:
    """Describe the cluster: its nodes, and the owner of each shard."""
    return _get("/cluster", schemas.ClusterDescription)


def ready() -> Call[schemas.Health]:
    """Wait until the server is ready, for as long as `patience`."""
    return _get("/health/ready", schemas.Health)


def _of(model: str, part: str = "") -> str:
    path = f"/models/{quote(model, safe='')}"
    return f"{path}/{part}" if part else path


def _post(path: str, body: Mapping[str, Any], model: str) -> Request:
    return Request("POST", path, encode(body), JSON, model)


def _get(path: str, answer: type[Any], model: str | None = None) -> Call[Any]:
    return Call(Request("GET", path, model=model), reader(answer))
