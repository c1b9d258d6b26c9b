"""Flavour of MLflow (extra ``mlflow``): log an estimator, load it, and predict with it as a ``pyfunc``."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns of its own type hints
    from mlflow.pyfunc import save_model as save_pyfunc
from mlflow.models import Model
from mlflow.models.model import ModelInfo
from mlflow.tracking.artifact_utils import _download_artifact_from_uri
from mlflow.utils.model_utils import _get_flavor_configuration

from . import __version__
from .backbone import Backbone
from .estimators import BNPClassifier, BNPRegressor, load

FLAVOR_NAME = "bnp_online"
_FILE = "model.safetensors"


def save_model(
    model: BNPClassifier | BNPRegressor, path: str | Path, mlflow_model: Model | None = None, **options: Any
) -> None:
    """Save an estimator as a model of MLflow.

    Parameters
    ----------
    model : BNPClassifier or BNPRegressor
        The estimator.
    path : str or path
        Folder, which must not exist.
    mlflow_model : mlflow.models.Model, optional
        Description to which the flavour is added; by default a new one.
    options
        Options of `mlflow.pyfunc.save_model`, such as ``signature``, ``input_example`` and ``metadata``.
    """
    options.setdefault("pip_requirements", [f"bnp-online=={__version__}"])
    described = Model() if mlflow_model is None else mlflow_model
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / _FILE)
        described.add_flavor(FLAVOR_NAME, data=f"data/{_FILE}", version=__version__)
        save_pyfunc(
            str(path),
            loader_module=__name__,
            data_path=str(Path(folder) / _FILE),
            mlflow_model=described,
            **options,
        )


def log_model(
    model: BNPClassifier | BNPRegressor,
    name: str = "model",
    *,
    registered_model_name: str | None = None,
    **options: Any,
) -> ModelInfo:
    """Log an estimator to the active run; other arguments are those of `save_model`.

    Parameters
    ----------
    model : BNPClassifier or BNPRegressor
        The estimator.
    name : str
        Name of the model.
    registered_model_name : str, optional
        Name in the registry of models, to which a version is added.
    """
    logged: ModelInfo = Model.log(
        name=name,
        artifact_path=None,
        flavor=sys.modules[__name__],
        model=model,
        registered_model_name=registered_model_name,
        **options,
    )
    return logged


def load_model(model_uri: str, backbone: Backbone | None = None) -> BNPClassifier | BNPRegressor:
    """Load an estimator, which continues to learn with the same bits.

    Parameters
    ----------
    model_uri : str
        Address of the model, such as ``models:/name/1`` or a folder.
    backbone : Backbone, optional
        The backbone of a model that has one: MLflow keeps the head alone, which is no ``pyfunc``.
    """
    folder = Path(_download_artifact_from_uri(model_uri))
    flavor = _get_flavor_configuration(str(folder), FLAVOR_NAME)
    return load(folder / flavor["data"], backbone=backbone)


class _Predictor:
    """An estimator as MLflow predicts with it."""

    def __init__(self, estimator: BNPClassifier | BNPRegressor) -> None:
        self.estimator = estimator

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return the predictions for the rows of a data frame."""
        return self.estimator.predict_many(model_input)


def _load_pyfunc(path: str) -> _Predictor:
    """Load the model of a folder; MLflow calls this function."""
    return _Predictor(load(path))
