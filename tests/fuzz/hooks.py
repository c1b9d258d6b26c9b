"""What schemathesis cannot know of this server from its document."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import AcceptedNegativeData, Failure, ServerError
from schemathesis.openapi.checks import (
    AllowHeaderMismatch,
    EnsureResourceAvailability,
    RejectedPositiveData,
    UnsupportedMethodResponse,
)

from bnp_online import BNPClassifier, checkpoint
from service.http.responses import is_open_inference, is_river

LINES = "application/x-ndjson"
JSON = "application/json"
#: Why a request may be refused that is as the document says: the state of the model, and the server's limits.
OF_A_SAMPLE = {
    "invalid_feature", "invalid_label", "label_type", "non_finite_feature", "non_finite_label",
    "non_finite_state", "too_many_classes", "too_many_features", "wrong_shape",
}  # fmt: skip
ANYWHERE = {"body_too_large", "not_kept"}
#: Fields of a spec whose bounds are the server's, or depend on other fields.
OF_A_SPEC = {
    "device", "hidden", "input_shape", "intervals", "max_classes", "max_features", "max_values", "sparse",
    "text",
}  # fmt: skip


def _file() -> bytes:
    model = BNPClassifier(hidden=(3,), replay=1, memory=5, max_features=50, max_classes=10)
    for i in range(8):
        model.learn_one({"a": i, "b": -i}, i % 3)
    return checkpoint.dumps(model.state_dict())


FILE = _file()
NUMBERS = itertools.count()
#: Where models and shadows are made.
MAKING = {"/models", "/models/{m}/shadows", "/api/model/{flavor}/", "/api/model/{flavor}/{m}/"}
#: What no envelope of the River API Spec tells by a code: that a refusal is about the shape of a body.
OF_THE_SHAPE = (
    "is missing", "is not a field", "must be a string", "must be a boolean,", "must be an object",
    "must be a JSON",
)  # fmt: skip
#: What a schema refuses, in the words of `service.problems`: a limit of the server has further words.
OF_A_SCHEMA = re.compile(
    r"\S+ (is missing(: .*)?|is not a known field|must have .*|must be ('.*|true or false|an? [a-z ]+"
    r"|at least \S+|at most \S+|greater than \S+|less than \S+)(, or .*)?)"
)


@schemathesis.hook
def before_load_schema(context: Any, schema: dict[str, Any]) -> None:
    """Let a route that answers lines take lines and arrays, too: the document has that in words only.

    Its parameters name columns of tables, which are not sent here.
    """
    for methods in schema["paths"].values():
        for operation in methods.values():
            answers = operation["responses"].get("200", {}).get("content", {})
            if LINES in answers:
                given = operation["parameters"]
                operation["parameters"] = [each for each in given if each["in"] != "query"]
                content = operation["requestBody"]["content"]
                content[LINES] = content[JSON]
                content[JSON] = {"schema": _or_array(content[JSON]["schema"])}
                error = {"$ref": "#/components/schemas/ErrorAnswer"}
                answers[JSON] = {"schema": _or_array(answers[JSON]["schema"], error)}


def _or_array(schema: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value, or of an array of such values and others."""
    return {"anyOf": [schema, {"type": "array", "items": {"anyOf": [schema, *others]}}]}


@schemathesis.hook
def before_generate_body(context: Any, strategy: Any) -> Any:
    """Import a model now and then, not only bytes that are none."""
    return strategy | st.just(FILE) if context.operation.path.endswith("/import") else strategy


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Let most models that may be made be made: by names of their own, within the limits, and small."""
    number = next(NUMBERS)
    path = case.operation.path
    if path not in MAKING or not isinstance(case.body, dict) or not _is_valid(case):
        return
    for name, least, most in (("max_features", 1, 50), ("max_classes", 2, 10), ("max_values", 100, 1000)):
        if (limit := case.body.get(name)) is not None:
            case.body[name] = least + int(limit) % (most - least)
    for name in ("backbone", "backbone_sha256"):  # the server has none
        case.body.pop(name, None)
    for name in ("hidden", "input_shape"):
        if (sizes := case.body.get(name)) is not None:
            case.body[name] = [4 + int(size) % 4 for size in sizes]
    if is_river(path):  # how many classes there may be depends on the flavor
        case.body.pop("max_classes", None)
        if "m" in (case.path_parameters or {}) and number % 8:
            case.path_parameters["m"] = f"made-{number}"
    elif number % 8:
        case.body["name"] = f"made-{number}"


def _is_valid(case: Any) -> bool:
    return case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE


@schemathesis.serializer(LINES)
def write_line(context: Any, value: Any) -> bytes:
    """Send a stream of one line."""
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


@schemathesis.deserializer(LINES)
def read_line(context: Any, response: Any) -> Any:
    """Return what a stream of one line is answered with."""
    [line] = response.content.splitlines()
    return json.loads(line)


@schemathesis.hook
def filter_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Return whether a failure is one: it is not if only the server could know better."""
    if isinstance(failure, ServerError):  # no model has the step of a header that is made up, or any
        expected = "BNP-Min-Step" in response.text or "has not learned any sample" in response.text
        return response.status_code != 503 or not expected
    if isinstance(failure, UnsupportedMethodResponse | AllowHeaderMismatch):
        # By the spec a POST there makes a model of a flavor, and the rest is about a model of a name.
        return not case.operation.path.startswith("/api/model/")
    if isinstance(failure, RejectedPositiveData) and is_river(case.operation.path):
        message = response.json()["message"]
        if message.startswith("network"):
            return False
        return any(said in message for said in OF_THE_SHAPE) or OF_A_SCHEMA.fullmatch(message) is not None
    if isinstance(failure, RejectedPositiveData):
        error = response.json() if is_open_inference(case.operation.path) else response.json()["error"]
        return not _is_of_the_server(error, case.operation.path)
    if isinstance(failure, EnsureResourceAvailability):  # the model is there, and has no such id or step
        return "there is no model" in response.text
    if isinstance(failure, AcceptedNegativeData):
        many = case.media_type == LINES or response.content.startswith(b"[")  # lines, or items of an array
        return not (response.status_code == 413 or (many and b'{"error":' in response.content))
    return True


def _is_of_the_server(error: dict[str, Any], path: str) -> bool:
    code = error["code"]
    if path.endswith(("/learn", "/predict", "/label", "/evidence", "/explain")):
        # Whether a model has intervals to tell is for the model to say; the path may name another model.
        without_intervals = code == "invalid_spec" and error["field"] in ("interval", "intervals")
        another_model = code == "invalid_request" and error["field"] == "model"
        without_class = path.endswith("/explain") and error["field"] == "label"
        return code in OF_A_SAMPLE | ANYWHERE or without_intervals or another_model or without_class
    if path.endswith("/infer"):  # a schema does not tell how many values a shape has
        of_tensors = {"invalid_request", "invalid_type", "missing_field", "string_too_long"}
        return code in OF_A_SAMPLE | ANYWHERE | of_tensors
    if path.endswith("/import"):
        return code in ANYWHERE | {"invalid_checkpoint"}
    if path.endswith("/shadows"):  # its task and its shape are those of its champion
        return code in ANYWHERE | {"invalid_spec"}
    if path.endswith("/upgrade"):  # some networks learn in the same way in all generations
        return code in ANYWHERE | {"invalid_spec"}
    if code == "invalid_spec" and error["field"].startswith("network"):  # its layers depend on one another
        return True
    of_a_spec = code == "invalid_spec" and error["field"] in OF_A_SPEC
    return code in ANYWHERE or (of_a_spec and OF_A_SCHEMA.fullmatch(error["message"]) is None)
