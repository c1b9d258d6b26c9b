"""Routes of the Open Inference Protocol."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from bnp_online import BNPClassifier, SampleError, __version__

from ...auth.scopes import BYTES, JSON, needs
from ...errors import Layer, NotReadyError, QueueFullError, RequestError
from ...http.content import without_mark
from ...http.requests import Shape, as_model, headers_of, read_body, read_item
from ...http.responses import encode, json_response
from ...models.access import Models, models_of
from ...models.hosted import Answer, HostedModel
from ...models.queue import Capacity
from ...models.worker import Asked, Uses, Worker
from ...schemas import PredictBody
from ...settings import Settings
from ..freshness import MIN_STEP, PARAMETER, RESPONSE_HEADERS, Freshness, min_step, wait_for_step
from ..openapi import ApiRoute
from . import schemas
from .tensors import CLASSES, PREDICTION, PROBABILITIES, datatype_of, outputs_of, samples_of, written

#: Header with the number of bytes of JSON, if tensors follow it.
_JSON_LENGTH = "Inference-Header-Content-Length"
_SAMPLE = Shape.of(PredictBody)

router = APIRouter(tags=["Open Inference Protocol"], route_class=ApiRoute)


@router.get("/v2", summary="Describe the server (v2)", response_model=schemas.InferenceServer)
@needs("read")
async def v2_server(request: Request) -> Response:
    """Return name, version and extensions of the server."""
    return json_response({"name": "bnp-online", "version": __version__, "extensions": ["binary_tensor_data"]})


@router.get("/v2/health/live", summary="Liveness (v2)", response_model=schemas.Live)
@needs(None)
async def v2_live(request: Request) -> Response:
    """Respond, as `GET /health/live`."""
    return json_response({"live": True})


@router.get("/v2/health/ready", summary="Readiness (v2)", response_model=schemas.Ready)
@needs(None, Layer.PROBE)
async def v2_ready(request: Request) -> Response:
    """Check the log and every model, as `GET /health/ready`."""
    await models_of(request.scope).readiness.require()
    return json_response({"ready": True})


@router.get("/v2/models/{m}", summary="Describe a model (v2)", response_model=schemas.InferenceModel)
@needs("read", Layer.MODEL, Layer.READ)
async def v2_model(request: Request, m: str) -> Response:
    """Return the inputs and outputs of a model: the features and classes that it has learned so far."""
    return json_response(await (await models_of(request.scope).get(m)).ask(_described))


@router.get("/v2/models/{m}/ready", summary="Readiness of a model (v2)", response_model=schemas.Ready)
@needs("read", Layer.MODEL, Layer.READ)
async def v2_model_ready(request: Request, m: str) -> Response:
    """Check that a model can predict: it answers, and has learned a sample."""
    worker = await models_of(request.scope).get(m)
    if not await worker.ask(lambda model: model.step, short=True):
        raise _nothing_learned(m)
    return json_response({"name": m, "ready": True})


@router.post(
    "/v2/models/{m}/infer",
    summary="Predict samples (v2)",
    response_model=schemas.InferAnswer,
    responses={200: {"headers": RESPONSE_HEADERS}},
    openapi_extra={"parameters": [PARAMETER]},
)
@needs(
    "predict",
    *(Layer.FEATURES, Layer.SAMPLE, Layer.FIELDS, Layer.MODEL, Layer.READ, Layer.STEP),
    takes=(JSON, BYTES, ""),  # Triton's client sends no media type
    body=schemas.InferBody,
)
async def v2_infer(request: Request, m: str) -> Response:
    """Predict samples, as `POST /predict`; the model does not change.

    Each feature is an input of shape [N] or [N, 1], for N samples. A model with an `input_shape` takes one
    input of shape [N, *input_shape]. Outputs: `prediction`, and of a classification `probabilities` of shape
    [N, C] and `classes`, their C names. Tensors are in the JSON, or bytes behind it, which the header
    `Inference-Header-Content-Length` announces. The request fails if one sample is invalid.
    """
    models, headers = models_of(request.scope), headers_of(request.scope)
    raw = await read_body(request.scope, request.receive, models.settings.max_body_bytes)
    bodies: Capacity = request.app.state.bodies
    if bodies.taken >= bodies.limit:
        raise QueueFullError(f"{bodies.taken} bytes of requests wait (BNP_QUEUE_BYTES): try again later")
    bodies.taken += len(raw)
    try:
        length = _length(headers.get(_JSON_LENGTH.lower().encode()), len(raw))
        body = as_model(without_mark(raw[:length]), schemas.InferBody)
        worker = await models.get(m)
        if MIN_STEP in headers:
            worker = await wait_for_step(partial(models.get, m), min_step(headers))
        freshness = Freshness()
        freshness.add(worker)
        return await _infer(worker, body, raw[length:], models, freshness)
    finally:
        bodies.free(len(raw))


async def _infer(
    worker: Worker, body: schemas.InferBody, behind: bytes, models: Models, freshness: Freshness
) -> Response:
    shape = worker.model.spec.input_shape
    samples = [_checked(x, i, models.settings) for i, x in enumerate(samples_of(body, behind, shape))]
    answers: list[Answer] = []
    with Uses(worker):
        while len(answers) < len(samples):
            _, outcomes = await worker.queue_predictions([*map(Asked, samples[len(answers) :])])
            for outcome in await outcomes:
                if isinstance(outcome, Exception):
                    raise outcome.at(len(answers)) if isinstance(outcome, SampleError) else outcome
                answers.append(outcome)
        labels = await worker.ask(_labels, short=True)
    if any(answer["prediction"] is None for answer in answers):
        raise _nothing_learned(worker.model.name)
    outputs = outputs_of(answers, labels)
    tensors, after = written(outputs, _wanted(body, outputs))
    found = {"model_name": worker.model.name, "outputs": tensors, **({"id": body.id} if body.id else {})}
    content, kind, head = encode(found), JSON, {}
    if after:
        head, kind = {_JSON_LENGTH: str(len(content))}, BYTES
    response = Response(content + after, headers=head, media_type=kind)
    response.raw_headers += freshness.headers()
    return response


def _length(header: bytes | None, most: int) -> int:
    """Return the number of bytes of JSON in a body."""
    if header is None:
        return most
    if not header.isdigit() or len(header) > 16 or int(header) > most:
        raise RequestError(f"{_JSON_LENGTH} must be a number of bytes, at most {most}", _JSON_LENGTH)
    return int(header)


def _checked(x: Any, position: int, settings: Settings) -> Any:
    """Return a sample within the limits of the server."""
    try:
        return read_item({"x": x}, _SAMPLE, settings)["x"]
    except RequestError as error:
        raise type(error)(f"row {position}: {error.message}", error.field) from None


def _labels(model: HostedModel) -> list[Any] | None:
    return list(model.estimator.labels) if isinstance(model.estimator, BNPClassifier) else None


#: Parameters of outputs that would change their form or place. Other ones that are unknown are ignored.
_UNSUPPORTED = {"classification", "shared_memory_region"}


def _wanted(body: schemas.InferBody, outputs: dict[str, Any]) -> dict[str, bool]:
    """Return the outputs to write, and whether each is binary."""
    all_binary = (body.parameters or {}).get("binary_data_output") is True
    if body.outputs is None:
        return dict.fromkeys(outputs, all_binary)
    wanted: dict[str, bool] = {}
    for i, output in enumerate(body.outputs):
        if output.name not in outputs:
            raise RequestError(
                f"{output.name!r:.80} is not an output of this model: it has {', '.join(outputs)}",
                f"outputs[{i}].name",
            )
        if refused := _UNSUPPORTED & (output.parameters or {}).keys():
            name = min(refused)
            message = f"{name} is of an extension that this server does not support: omit it"
            raise RequestError(message, f"outputs[{i}].parameters.{name}")
        wanted[output.name] = (output.parameters or {}).get("binary_data", all_binary) is True
    return wanted


def _described(model: HostedModel) -> dict[str, Any]:
    estimator, shape, labels = model.estimator, model.spec.input_shape, _labels(model)
    if shape is not None:
        inputs = [_tensor("x", "FP64", [-1, *shape])]
    else:
        inputs = [
            _tensor(name, "BYTES" if kind is str else "FP64", [-1])
            for name, kind in estimator.feature_types.items()
        ]
    if labels is None:
        outputs = [_tensor(PREDICTION, "FP64", [-1])]
    else:
        kind = datatype_of(labels)
        outputs = [
            _tensor(PREDICTION, kind, [-1]),
            _tensor(PROBABILITIES, "FP64", [-1, len(labels)]),
            _tensor(CLASSES, kind, [len(labels)]),
        ]
    return {"name": model.name, "platform": "bnp-online", "inputs": inputs, "outputs": outputs}


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _nothing_learned(name: str) -> NotReadyError:
    return NotReadyError(f"the model {name!r:.80} cannot predict: it has not learned any sample")


ROUTES = router.routes
