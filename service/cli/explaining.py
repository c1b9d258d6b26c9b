"""``explain``: how much each feature moved the predictions for a file, as NDJSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bnp_online.client import ServerError
from bnp_online.errors import NonFiniteStateError, SampleError

from ..telemetry.progress import progress
from .options import DEFAULT_MODEL, Key, Load, Model, SampleFile, Url, connected, reads_samples
from .output import CommandError
from .predicting import Unknown, refuse_invalid, sink_of

if TYPE_CHECKING:
    from bnp_online.files import Row
    from bnp_online.values import Explanation


@reads_samples
def explain(
    source: SampleFile,
    load: Load = None,
    url: Url = None,
    model: Model = None,
    key: Key = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for the explanations, as NDJSON.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Greatest number of features in a line; `others` is the sum of the rest."),
    ] = None,
) -> None:
    """Explain the prediction for each sample of a file, in order. The model does not change.

    A line has the `prediction`, and in `contributions` how much each feature added to the `output`: the log
    odds of the predicted class, which is `label`, or the predicted number. The strongest come first. The
    output is the `baseline` plus their sum, and plus `others` with --top. The line of an invalid row has an
    `error`.
    """
    if (url is None) == (load is None):
        raise CommandError("Which model should be explained? Give --load FILE, or --url of a server.", 2)
    if url is None and model is not None:
        raise CommandError("--model is the name of a model of a server: give --url in place of --load.", 2)
    invalid = 0
    with (
        sink_of(output) as sink,
        _explainer(load, url, key, model or DEFAULT_MODEL) as explainer,
        source.rows(labelled=False, features=explainer.features, fields=explainer.fields) as rows,
        progress(f"explaining {source.name}", None, fraction=lambda: rows.fraction) as done,
    ):
        unknown = Unknown(explainer.features, explainer.fields)
        for n, row in enumerate(rows, 1):
            if row.error is None:
                unknown.add(row.x)
            line = _line(row, explainer.explain, top)
            invalid += "error" in line
            sink.write(json.dumps(line, default=str).encode() + b"\n")
            done(n)
        unknown.report()
    refuse_invalid(invalid)


class _Explainer(NamedTuple):
    """Function that explains a sample; columns of the model; its features with words or many values."""

    explain: Callable[[Any], dict[str, Any]]
    features: frozenset[str]
    fields: frozenset[str]


def _line(row: Row, explained: Callable[[Any], dict[str, Any]], top: int | None) -> dict[str, Any]:
    """Return the line of a row."""
    if row.error is not None:
        return {"error": f"row {row.number} {row.error}"}
    try:
        line = explained(row.x)
    except ServerError as error:
        return {"error": f"row {row.number} is invalid: {error.message}"}
    except (SampleError, NonFiniteStateError) as error:
        return {"error": f"row {row.number} is invalid: {error}"}
    contributions = line["contributions"]
    if isinstance(contributions, Mapping):
        strongest = sorted(contributions.items(), key=lambda each: -abs(each[1]))
        line["contributions"] = dict(strongest[:top])
        if top is not None:
            line["others"] = sum(value for _, value in strongest[top:])
    return line


@contextlib.contextmanager
def _explainer(load: Path | None, url: str | None, key: str | None, model: str) -> Iterator[_Explainer]:
    if url is not None:
        with connected(url, key) as client:
            described = client.describe(model)

            def remote(x: Any) -> dict[str, Any]:
                answer = client.explain(x, model=model)
                return answer.model_dump(exclude={"model", "step", "unknown"}, exclude_unset=True)

            fields = frozenset((*described.spec.text, *described.fields))
            yield _Explainer(remote, frozenset(described.features), fields)
    elif load is not None:
        from .learners import load_estimator  # late: torch

        estimator = load_estimator(load)

        def local(x: Any) -> dict[str, Any]:
            return _as_json(estimator.explain_one(x), classifies=estimator.task == "classification")

        fields = frozenset((*estimator.text, *estimator.fields))
        yield _Explainer(local, frozenset(estimator.feature_names), fields)


def _as_json(found: Explanation, *, classifies: bool) -> dict[str, Any]:
    """Return an explanation as the server would."""
    contributions = found.contributions
    return {
        "prediction": found.prediction,
        **({"label": found.label} if classifies else {}),
        "output": found.output,
        "baseline": found.baseline,
        "contributions": contributions if isinstance(contributions, dict) else contributions.tolist(),
    }
