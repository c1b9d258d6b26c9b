"""Routes that learn: samples with labels, and labels of earlier predictions."""

from __future__ import annotations

from collections.abc import Awaitable

from .. import schemas
from ..auth.scopes import ARROW, CSV, JSON, NDJSON, needs
from ..errors import Layer
from ..models.hosted import Answer
from ..models.validation import Label, Learn
from ..models.worker import Worker
from .fast_path import FastRequest, HotRoute


def _sample(request: FastRequest[schemas.LearnBody]) -> Learn:
    body = request.fields
    weight = body.get("w")
    return Learn(body["x"], body["y"], 1.0 if weight is None else weight, body.get("id"), request.raw)


@needs("learn", Layer.WRITER, Layer.SAMPLE_ID, Layer.TABLE, takes=(JSON, NDJSON, CSV, ARROW))
def learn(request: FastRequest[schemas.LearnBody]) -> Awaitable[Answer]:
    """Predict a sample, score the prediction, learn the sample, and respond once it is on the disk.

    With an `id` the request is safe to repeat: the same body changes nothing and returns the original step.
    As `application/x-ndjson` the body has one sample per line. The samples are learned one at a time, in
    order. Each is answered by a line, in order, while the body is still being sent. A line that cannot be
    learned is skipped and answered by an error with its number (from 1; blank lines count, and have no
    answer). A JSON array of up to 1,000 samples is learned in the same way, and answered by an array, in
    order, once all samples are on the disk; the field of an error starts with the position, as in `[3].x.a`.
    As `text/csv` the body has a header with the names of the columns, then one sample per line. The parameter
    `target` of the query names the column with the target, `id` and `weight` those of the ids and weights.
    All other columns are features. Cells are read as `bnp-online learn FILE` reads them, and lines answered
    as those of NDJSON; the header is line 1.
    A body may be compressed with gzip.
    """
    return request.worker.learn(_sample(request))


def _label(request: FastRequest[schemas.LabelBody]) -> Label:
    return Label(request.fields["id"], request.fields["y"])


@needs("learn", Layer.WRITER, Layer.LABEL, Layer.LABELLED, takes=(JSON, NDJSON))
def label(request: FastRequest[schemas.LabelBody]) -> Awaitable[Answer]:
    """Learn the label of an earlier prediction, which is scored as it was given at the time.

    The body may also be an array or `application/x-ndjson`; see `POST /learn`.
    """
    return request.worker.learn(_label(request))


ROUTES = [
    *(
        HotRoute(
            path,
            learn,
            summary=f"Learn one sample{where}",
            tags=["learning"],
            response_model=schemas.LearnAnswer,
            many=(_sample, Worker.queue_samples),
            blocks=True,
        )
        for path, where in (("/learn", ""), ("/models/{m}/learn", " (model in the path)"))
    ),
    *(
        HotRoute(
            path,
            label,
            summary=f"Label an earlier prediction{where}",
            tags=["learning"],
            response_model=schemas.LearnAnswer,
            many=(_label, Worker.queue_samples),
        )
        for path, where in (("/label", ""), ("/models/{m}/label", " (model in the path)"))
    ),
]
