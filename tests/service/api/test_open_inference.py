"""The Open Inference Protocol: through Triton's client, as it is on PyPI, and as bytes on a socket."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from service.auth.keys import new_secret
from tests.support.running import Json, Server

SMALL = {"hidden": [6], "replay": 1, "memory": 50}
XS: list[Json] = [{"a": i / 3 - 2, "b": -i, "city": ["Lund", "Oslo"][i % 2]} for i in range(12)]


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as running:
        yield running


@pytest.fixture(scope="module", params=["words", "numbers", "truths"])
def classes(request: pytest.FixtureRequest, server: Server) -> str:
    """A classification with labels of one type."""
    by_type: dict[str, list[Any]] = {
        "words": ["kött", "fisk", "x"],
        "numbers": [3, -1, 2**40],
        "truths": [True, False],
    }
    labels = by_type[request.param]
    name = f"classes-{request.param}"
    server.create(name=name, **SMALL)
    for i, x in enumerate(XS):
        server.learn(x, labels[i % len(labels)], model=name)
    return name


def tensor(name: str, values: Any, datatype: str, *, binary: bool = True) -> triton.InferInput:
    array = np.array(values, object if datatype == "BYTES" else triton_type(datatype))
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def triton_type(datatype: str) -> Any:
    return {"FP64": np.float64, "FP32": np.float32, "INT64": np.int64, "BOOL": np.bool_}[datatype]


def columns(xs: list[Json], *, binary: bool = True) -> list[triton.InferInput]:
    return [
        tensor("a", [x["a"] for x in xs], "FP64", binary=binary),
        tensor("b", [[x["b"]] for x in xs], "INT64", binary=binary),
        tensor("city", [x["city"] for x in xs], "BYTES", binary=binary),
    ]


def native(server: Server, xs: list[Any], model: str) -> list[Json]:
    answer = server.client.post(f"/models/{model}/predict", json=[{"x": x} for x in xs])
    given: list[Json] = answer.json()
    return given


def values(result: triton.InferResult, output: str) -> list[Any]:
    found: list[Any] = result.as_numpy(output).tolist()
    return [each.decode() if isinstance(each, bytes) else each for each in found]


def test_the_server_and_its_models_are_ready(client: triton.InferenceServerClient, server: Server) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "bnp-online"
    server.create(name="new", **SMALL)
    assert not client.is_model_ready("new")
    assert not client.is_model_ready("nobody")
    server.learn({"a": 1}, 1, model="new")
    assert client.is_model_ready("new")


@pytest.mark.parametrize("binary", [True, False])
def test_a_classification_answers_as_the_native_route(
    client: triton.InferenceServerClient, server: Server, classes: str, binary: bool
) -> None:
    before = server.fingerprint(classes)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("prediction", "classes")]
    wanted.append(triton.InferRequestedOutput("probabilities", binary_data=binary))
    result = client.infer(classes, columns(XS, binary=binary), outputs=wanted, request_id="r-1")
    assert result.get_response()["id"] == "r-1"
    expected = native(server, XS, classes)
    assert values(result, "prediction") == [answer["prediction"] for answer in expected]
    names = [name if isinstance(name, str) else json.dumps(name) for name in values(result, "classes")]
    for row, answer in zip(values(result, "probabilities"), expected, strict=True):
        assert dict(zip(names, row, strict=True)) == answer["probabilities"]
    assert server.fingerprint(classes) == before


def test_all_outputs_are_binary_if_none_is_named(
    client: triton.InferenceServerClient, server: Server
) -> None:
    server.create(name="regression", task="regression", **SMALL)
    for i, x in enumerate(XS):
        server.learn(x, i / 7, model="regression")
    result = client.infer("regression", columns(XS))
    assert [each["name"] for each in result.get_response()["outputs"]] == ["prediction"]
    assert "data" not in result.get_response()["outputs"][0]
    expected = [answer["prediction"] for answer in native(server, XS, "regression")]
    assert values(result, "prediction") == expected
    compressed = client.infer(
        "regression", columns(XS), request_compression_algorithm="gzip", headers={"BNP-Min-Step": "12"}
    )
    assert values(compressed, "prediction") == expected
    head = client.infer("regression", columns(XS[:1]))._result
    assert head["model_name"] == "regression"


@pytest.mark.parametrize("binary", [True, False])
def test_a_model_of_arrays(client: triton.InferenceServerClient, server: Server, binary: bool) -> None:
    name = f"arrays-{binary}"
    server.create(name=name, input_shape=[2, 3], **SMALL)
    xs = np.arange(24, dtype=np.float32).reshape(4, 2, 3) / 7
    for i, x in enumerate(xs.tolist()):
        server.learn(x, i % 2, model=name)
    assert client.get_model_metadata(name)["inputs"] == [
        {"name": "x", "datatype": "FP64", "shape": [-1, 2, 3]}
    ]
    result = client.infer(name, [tensor("any", xs, "FP32", binary=binary)])
    expected = native(server, xs.tolist(), name)
    assert values(result, "prediction") == [answer["prediction"] for answer in expected]
    assert values(result, "probabilities") == [[*answer["probabilities"].values()] for answer in expected]


def test_metadata_name_the_features_and_the_classes(
    client: triton.InferenceServerClient, classes: str
) -> None:
    about = client.get_model_metadata(classes)
    assert about["platform"] == "bnp-online"
    types = {each["name"]: each["datatype"] for each in about["inputs"]}
    assert types == {"a": "FP64", "b": "FP64", "city": "BYTES"}
    outputs = {each["name"]: each for each in about["outputs"]}
    count = outputs["classes"]["shape"][0]
    assert outputs["probabilities"]["shape"] == [-1, count]
    kind = {"classes-words": "BYTES", "classes-numbers": "INT64", "classes-truths": "BOOL"}[classes]
    assert outputs["prediction"]["datatype"] == kind


def test_missing_values_are_those_of_the_native_route(
    client: triton.InferenceServerClient, server: Server, classes: str
) -> None:
    xs = [{"a": None, "b": 2.5}, {"a": 1.5, "b": None}]
    expected = [answer["probabilities"] for answer in native(server, xs, classes)]
    given = [tensor("a", [np.nan, 1.5], "FP64"), tensor("b", [2.5, np.nan], "FP64")]
    assert values(client.infer(classes, given), "probabilities") == [[*each.values()] for each in expected]
    body = {
        "inputs": [
            {"name": "a", "shape": [2], "datatype": "FP64", "data": [None, 1.5]},
            {"name": "b", "shape": [2], "datatype": "FP64", "data": [2.5, None]},
        ],
        "outputs": [{"name": "probabilities"}],
    }
    answer = server.client.post(f"/v2/models/{classes}/infer", json=body)
    assert answer.headers["bnp-step"] == "12"
    (output,) = answer.json()["outputs"]
    assert output["data"] == [value for each in expected for value in each.values()]


def test_no_sample_is_no_prediction(server: Server, classes: str) -> None:
    body = {"inputs": [{"name": "a", "shape": [0], "datatype": "FP64", "data": []}]}
    answer = server.client.post(f"/v2/models/{classes}/infer", json=body)
    assert answer.json()["outputs"][0]["data"] == []


def numbers(shape: Any, data: Any, **more: Any) -> Json:
    return {"name": "a", "shape": shape, "datatype": "FP64", "data": data, **more}


@pytest.mark.parametrize(
    ("inputs", "status", "code", "field"),
    [
        ([], 422, "missing_field", "inputs"),
        ([numbers([2], [1.0])], 422, "invalid_request", "inputs[0].shape"),
        ([numbers([], [])], 422, "invalid_request", "inputs[0].shape"),
        ([numbers([-1], [1.0])], 422, "invalid_request", "inputs[0].shape"),
        ([numbers([2, 2], [1.0] * 4)], 422, "invalid_request", "inputs[0].shape"),
        ([numbers([1], [1.0]), numbers([2], [1.0, 2.0])], 422, "invalid_request", "inputs[1].shape"),
        ([numbers([1], [1.0]), numbers([1], [1.0])], 422, "invalid_request", "inputs[1].name"),
        ([numbers([1], None)], 422, "missing_field", "inputs[0].data"),
        ([numbers([1], ["x"])], 422, "invalid_type", "inputs[0].data"),
        ([numbers([1], [True])], 422, "invalid_type", "inputs[0].data"),
        ([numbers([1], [1.5], datatype="INT64")], 422, "invalid_type", "inputs[0].data"),
        ([numbers([1], [1], datatype="BYTES")], 422, "invalid_type", "inputs[0].data"),
        ([numbers([1], [1], datatype="COMPLEX")], 422, "invalid_spec", "inputs[0].datatype"),
        ([numbers([1], [1e300 * 10**10])], 422, "invalid_type", "inputs[0].data"),
        ([numbers([1001], [1.0] * 1001)], 413, "body_too_large", None),
        ([numbers([1], [1.0], name="n" * 2000)], 422, "string_too_long", None),
        ([numbers([1], [1.0], parameters={"binary_data_size": 8})], 422, "invalid_request", None),
    ],
)
def test_invalid_inputs_are_refused(
    server: Server, classes: str, inputs: list[Json], status: int, code: str, field: str | None
) -> None:
    before = server.fingerprint(classes)
    raw = json.dumps({"inputs": inputs}).replace("Infinity", "1e999")
    headers = {"content-type": "application/json"}
    answer = server.client.post(f"/v2/models/{classes}/infer", content=raw, headers=headers)
    said = answer.json()
    assert said.keys() == {"error", "code", "field"}
    assert (answer.status_code, said["code"]) == (status, code), said
    assert isinstance(said["error"], str)
    if field is not None:
        assert said["field"] == field
    assert server.fingerprint(classes) == before


def post_binary(
    server: Server, model: str, inputs: list[Json], behind: bytes, length: str | None = None
) -> httpx.Response:
    head = json.dumps({"inputs": inputs}).encode()
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(head)) if length is None else length,
    }
    return server.client.post(f"/v2/models/{model}/infer", content=head + behind, headers=headers)


def packed(datatype: str, size: Any) -> list[Json]:
    parameters = {"binary_data_size": size}
    return [{"name": "a", "shape": [1], "datatype": datatype, "parameters": parameters}]


@pytest.mark.parametrize(
    ("inputs", "behind", "length"),
    [
        (packed("FP64", 8), b"\0" * 7, None),
        (packed("FP64", 8), b"\0" * 9, None),
        (packed("FP64", 7), b"\0" * 7, None),
        (packed("FP64", -8), b"\0" * 8, None),
        (packed("FP64", "8"), b"\0" * 8, None),
        (packed("FP64", True), b"\0", None),
        (packed("FP64", 16), b"\0" * 16, None),
        (packed("BYTES", 3), b"\0" * 3, None),
        (packed("BYTES", 6), struct.pack("<I", 3) + b"ab", None),
        (packed("BYTES", 5), struct.pack("<I", 1) + b"\xff", None),
        (packed("FP64", 8), b"\0" * 8, "-1"),
        (packed("FP64", 8), b"\0" * 8, "100000"),
        (packed("FP64", 8), b"\0" * 8, "9" * 30),
        (packed("FP64", 8), b"\0" * 8, "ten"),
    ],
)
def test_invalid_bytes_are_refused(
    server: Server, classes: str, inputs: list[Json], behind: bytes, length: str | None
) -> None:
    answer = post_binary(server, classes, inputs, behind, length)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text


def test_an_infinite_number_names_its_field(server: Server, classes: str) -> None:
    answer = post_binary(server, classes, packed("FP32", 4), struct.pack("<f", float("inf")))
    assert (answer.status_code, answer.json()["field"]) == (422, "x.a")
    assert answer.json()["error"].startswith("row 0: x.a: ")


BOUNDS: list[tuple[str, Any, Any]] = [
    *((f"INT{bits}", 2 ** (bits - 1) - 1, 2 ** (bits - 1)) for bits in (8, 16, 32, 64)),
    *((f"INT{bits}", -(2 ** (bits - 1)), -(2 ** (bits - 1)) - 1) for bits in (8, 16, 32, 64)),
    *((f"UINT{bits}", 2**bits - 1, 2**bits) for bits in (8, 16, 32, 64)),
    *((f"UINT{bits}", 0, -1) for bits in (8, 16, 32, 64)),
    ("FP16", 65504, 65520),
    ("FP16", -65504.5, -1e5),
    ("FP32", 3.4028235e38, 3.5e38),
    ("FP32", -3.4028235e38, -(2**128)),
    ("FP64", 1e30, 10**400),
    ("BOOL", True, 1),
    ("BOOL", False, "true"),
]


@pytest.mark.parametrize(
    ("datatype", "inside", "outside"), BOUNDS, ids=[f"{i}-{each[0]}" for i, each in enumerate(BOUNDS)]
)
def test_a_value_outside_its_datatype_is_named(
    server: Server, datatype: str, inside: Any, outside: Any
) -> None:
    def infer(data: list[Any]) -> httpx.Response:
        inputs = [{"name": "a", "shape": [3], "datatype": datatype, "data": data}]
        return server.client.post("/v2/models/bounds/infer", json={"inputs": inputs})

    if server.client.get("/models/bounds").status_code == 404:
        server.create(name="bounds", **SMALL)
        server.learn({"a": 1.0}, "x", model="bounds")
    assert infer([None, inside, None]).status_code == 200
    answer = infer([inside, None, outside])
    assert (answer.status_code, answer.json()["field"]) == (422, "inputs[0].data")
    shown = "an integer of 1329 bits" if outside == 10**400 else json.dumps(outside)
    said = answer.json()["error"]
    assert said.startswith(f"value 2 of the tensor 'a' is {shown}: a tensor of type {datatype} has ")


def test_a_byte_that_is_no_boolean_is_named(server: Server, classes: str) -> None:
    head = [{"name": "a", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}}]
    answer = post_binary(server, classes, head, b"\1\0\2")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_type")
    assert answer.json()["error"].startswith("value 2 of the tensor 'a' is the byte 2: ")
    assert post_binary(server, classes, head, b"\1\0\1").status_code == 200


def test_an_invalid_sample_is_named_by_its_row(server: Server, classes: str) -> None:
    path = f"/v2/models/{classes}/infer"
    inputs = [{"name": "a", "shape": [3], "datatype": "FP64", "data": [1.0, 2.0, 1e300]}]
    answer = server.client.post(path, json={"inputs": inputs})
    assert (answer.status_code, answer.json()["field"]) == (422, "x.a")
    assert answer.json()["error"].startswith("row 2: x.a: ")
    inputs = [{"name": "a", "shape": [2], "datatype": "BYTES", "data": ["b", "c" * 70_000]}]
    answer = server.client.post(path, json={"inputs": inputs})
    assert (answer.status_code, answer.json()["field"]) == (422, "x.a")
    assert answer.json()["error"].startswith("row 1: ")


def test_an_unknown_output_or_model_is_refused(client: triton.InferenceServerClient, classes: str) -> None:
    wanted = [triton.InferRequestedOutput("nothing")]
    with pytest.raises(InferenceServerException, match="it has prediction, probabilities, classes"):
        client.infer(classes, columns(XS), outputs=wanted)
    ranked = [triton.InferRequestedOutput("probabilities", class_count=2)]
    with pytest.raises(InferenceServerException, match="classification is of an extension"):
        client.infer(classes, columns(XS), outputs=ranked)
    elsewhere = [triton.InferRequestedOutput("prediction")]
    elsewhere[0].set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="shared_memory_region is of an extension"):
        client.infer(classes, columns(XS), outputs=elsewhere)
    with pytest.raises(InferenceServerException) as unknown:
        client.infer("nobody", columns(XS))
    assert unknown.value.status() == "404"


def test_a_model_that_has_learned_nothing_has_no_prediction(
    client: triton.InferenceServerClient, server: Server
) -> None:
    server.create(name="untrained", **SMALL)
    with pytest.raises(InferenceServerException, match="has not learned any sample") as refused:
        client.infer("untrained", columns(XS))
    assert refused.value.status() == "503"


def test_keys_and_limits_are_those_of_predict(serve: Callable[..., Server]) -> None:
    secrets = {name: new_secret() for name in ("predictor", "reader", "other")}
    keys = (
        f"predictor predict {secrets['predictor']}; reader read {secrets['reader']}; "
        f"other predict,read {secrets['other']} models=other"
    )
    server = serve(api_keys=keys, max_body_bytes=2000, max_features=3)
    path, url = "/v2/models/default/infer", "/v2/models/default"
    body = {"inputs": [numbers([1], [1.0])]}
    status = {}
    for name, secret in secrets.items():
        headers = {"authorization": f"Bearer {secret}"}
        post = server.client.post(path, json=body, headers=headers)
        get = server.client.get(url, headers=headers)
        status[name] = post.status_code, get.status_code
    assert status == {"predictor": (503, 403), "reader": (403, 200), "other": (403, 403)}
    refused = server.client.post(path, json=body)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert server.client.get("/v2/health/live").json() == {"live": True}
    assert server.client.get("/v2/health/ready").json() == {"ready": True}
    headers = {"authorization": f"Bearer {secrets['predictor']}"}
    many = {"inputs": [numbers([1], [1.0], name=f"f{i}") for i in range(4)]}
    refused = server.client.post(path, json=many, headers=headers)
    assert refused.json()["code"] == "too_many_features"
    refused = server.client.post(path, json={"id": "x" * 2000, **body}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    wrong = server.client.post(path, content=b"{}", headers={**headers, "content-type": "text/plain"})
    assert wrong.status_code == 415
    assert wrong.json()["error"].endswith("Content-Type: application/json or application/octet-stream")


def test_a_body_without_a_type_is_refused_from_another_origin(server: Server, classes: str) -> None:
    raw = json.dumps({"inputs": [numbers([1], [1.0])]}).encode()
    path = f"/v2/models/{classes}/infer"
    assert server.client.post(path, content=raw).status_code == 200
    foreign = server.client.post(path, content=raw, headers={"origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "foreign_origin")
