"""Hosted models from the files of estimators."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from bnp_online import checkpoint as file_format
from bnp_online.errors import CheckpointError

from ..errors import InvalidSpecError
from ..schemas import DriftSpec, ModelSpec
from ..settings import Settings
from . import snapshot
from .hosted import HostedModel

#: Limits of the header of an imported file: bytes, and values. Within them, its parsing stops the event loop
#: for less than 0.1 s. A model with 4,096 features has a header of 0.1 to 1 MB with 4,400 values.
_HEADER_BYTES, _HEADER_VALUES = 2**22, 100_000


def imported(
    body: bytes,
    name: str,
    drift: DriftSpec,
    settings: Settings,
    clock: Callable[[], float],
    admit: Callable[[ModelSpec], object] = lambda spec: None,
    *,
    device: str | None = None,
    untrusted: bool = False,
) -> HostedModel:
    """Return a hosted model from the file of an estimator.

    Parameters
    ----------
    body : bytes
        Content of the file.
    name : str
        Name of the model.
    drift : DriftSpec
        Drift detection, which the file does not have.
    settings, clock
        See `HostedModel`.
    admit : callable
        Called with the specification before the model is created; may raise.
    device : str, optional
        Device of the model. That of the file is of the machine where the file was written.
    untrusted : bool
        Whether a client sent the file now, so that its header is limited. The log has accepted files only.

    Raises
    ------
    CheckpointError, StateError
        If the file is damaged or has no estimator.
    InvalidSpecError
        If the server cannot create this model.
    """
    if untrusted:
        state = file_format.loads(body, longest_header=_HEADER_BYTES, most_values=_HEADER_VALUES)
    else:
        state = file_format.loads(body)
    task = {"BNPClassifier": "classification", "BNPRegressor": "regression"}.get(str(state.get("estimator")))
    parameters = state.get("parameters")
    _check_text(state)
    if task is None or not isinstance(parameters, dict):
        raise CheckpointError("the file has no estimator of this library")
    known = {key: value for key, value in parameters.items() if key in ModelSpec.model_fields}
    ours = {"name": name, "task": task, "device": device, "drift": drift.model_dump(mode="json")}
    spec = {**known, **ours}
    try:
        valid = snapshot.specification(spec)
    except ValidationError as error:
        fields = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise InvalidSpecError(f"the server cannot create this model: {fields}") from None
    admit(valid)
    model = HostedModel(valid, settings, clock)
    model.estimator.load_state_dict(state)
    return model


def _check_text(state: dict[str, Any]) -> None:
    """Refuse strings that are not Unicode: a file may have them, but a response cannot."""
    header = {key: value for key, value in state.items() if key != "tensors"}
    try:
        json.dumps(header, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CheckpointError("the file has a string that is not Unicode") from None
