"""The document and the server agree: every route is in it, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from service import schemas
from service.api import dashboard, pages
from service.api.river import schemas as river
from tests.support.running import Json, Server

ALL_SCHEMAS = {
    name: cls
    for name, cls in vars(schemas).items()
    if isinstance(cls, type) and issubclass(cls, BaseModel) and cls.__module__.endswith(".schemas")
}
OF_THE_PAGES = {route.path for module in (pages, dashboard) for route in module.ROUTES}


@pytest.fixture(scope="module")
def document(server: Server) -> Json:
    return server.get("/openapi.json")


def operations(document: Json) -> dict[tuple[str, str], Json]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_route_is_documented_and_every_documented_route_exists(server: Server, document: Json) -> None:
    routes = {
        (method, route.path)
        for route in server.app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert routes == operations(document).keys()
    assert {getattr(route, "path", None) for route in server.app.routes} == {
        *(path for _, path in routes),
        *OF_THE_PAGES,
    }


def test_every_reference_has_a_target(document: Json) -> None:
    text = json.dumps(document)
    targets = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert text.count('"$ref"') == len(re.findall(r'"\$ref": "#/components/schemas/\w+"', text))
    assert targets == document["components"]["schemas"].keys()


def test_every_operation_says_what_it_does(document: Json) -> None:
    seen = operations(document)
    assert len({operation["operationId"] for operation in seen.values()}) == len(seen)
    for where, operation in seen.items():
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["tags"], where
        assert any(status.startswith("2") for status in operation["responses"]), where


def test_every_error_is_documented_in_its_envelope(document: Json) -> None:
    for (_, path), operation in operations(document).items():
        envelope = "RiverError" if path.startswith("/api/") else "ErrorAnswer"
        envelope = "InferenceError" if path.startswith("/v2") else envelope
        for status, response in operation["responses"].items():
            if status >= "400":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": f"#/components/schemas/{envelope}"}


@pytest.mark.parametrize("name", ALL_SCHEMAS)
def test_every_example_is_valid(name: str) -> None:
    model = ALL_SCHEMAS[name]
    for example in model.model_json_schema().get("examples", []):
        model.model_validate_json(json.dumps(example))


@pytest.mark.parametrize(
    "name", ["LearnBody", "PredictBody", "LabelBody", "ModelSpec", "LearnAnswer", "PredictAnswer"]
)
def test_what_people_type_has_an_example(document: Json, name: str) -> None:
    assert document["components"]["schemas"][name]["examples"]


def test_the_examples_work(server: Server, document: Json) -> None:
    """What a newcomer copies from the page is answered as the page says."""
    for path, name in (("/learn", "LearnBody"), ("/predict", "PredictBody"), ("/label", "LabelBody")):
        for example in document["components"]["schemas"][name]["examples"]:
            answer = server.post(path, **example)
            assert answer.status_code == 200, answer.text
            answers: Any = schemas.PredictAnswer if path == "/predict" else schemas.LearnAnswer
            answers.model_validate_json(answer.content)
    for path, name, status in (
        ("/api/learn/", "RiverLearnBody", 201),
        ("/api/predict/", "RiverPredictBody", 201),
        ("/api/label/", "RiverLabelBody", 200),
    ):
        for example in document["components"]["schemas"][name]["examples"]:
            assert server.post(path, **example).status_code == status
    for example in document["components"]["schemas"]["ModelSpec"]["examples"]:
        server.create(**example)


def test_learning_and_predicting_come_first(document: Json) -> None:
    tags = [tag["name"] for tag in document["tags"]]
    assert tags[:2] == ["learning", "predicting"]
    assert {tag for operation in operations(document).values() for tag in operation["tags"]} == set(tags)
    paths = [path for path in document["paths"] if "{m}" not in path]
    assert paths[:3] == ["/learn", "/label", "/predict"]


@pytest.mark.parametrize("path", ["/learn", "/predict", "/label"])
def test_the_command_in_a_description_works_on_a_new_server(
    serve: Callable[..., Server], document: Json, path: str
) -> None:
    server = serve()
    [commands] = re.findall(r"```sh\n(.*)```", document["paths"][path]["post"]["description"], re.DOTALL)
    printed = commands.replace("localhost:8000", f"localhost:{server.port}").replace("curl", "curl -f")
    for command in printed.splitlines():
        answer = subprocess.check_output(["bash", "-c", command], text=True)
        assert json.loads(answer)["model"] == "default"


def test_answers_are_as_documented(server: Server) -> None:
    server.create(name="numbers", task="regression", intervals=4)
    server.learn({"a": 1}, 1.5, model="numbers")
    for name in ("default", "numbers"):
        for path, model in (
            (f"/models/{name}", schemas.ModelDescription),
            (f"/models/{name}/fingerprint", schemas.Fingerprint),
            (f"/models/{name}/metrics", schemas.Scores),
            (f"/models/{name}/dashboard", schemas.Dashboard),
            ("/models", schemas.ModelList),
            ("/api/", river.RiverInfo),
            ("/api/models/", river.RiverNames),
            (f"/api/model/{name}/", schemas.ModelDescription),
            (f"/api/stats/?model={name}", river.RiverStats),
        ):
            answer = server.get(path)
            required = {field for field, about in model.model_fields.items() if about.is_required()}
            assert required <= answer.keys() <= model.model_fields.keys()
            model.model_validate_json(json.dumps(answer))


def test_the_page_works(server: Server) -> None:
    page = server.client.get("/docs")
    assert page.status_code == 200
    assert "docs/start.js" in page.text


def test_a_number_without_a_fraction_is_an_integer(server: Server) -> None:
    """So it is in JSON Schema, and some clients write 3.0."""
    headers = {"content-type": "application/json"}
    body = b'{"name": "whole", "hidden": [4.0, 3], "memory": 1e1}'
    made = server.client.post("/models", content=body, headers=headers)
    assert made.status_code == 201
    assert (made.json()["spec"]["hidden"], made.json()["spec"]["memory"]) == ([4, 3], 10)
    for field, value in (("hidden", "[4.5]"), ("memory", "1e300"), ("seed", "-1.0"), ("replay", "true")):
        other = f'{{"name": "other", "{field}": {value}}}'
        answer = server.client.post("/models", content=other, headers=headers)
        assert answer.status_code == 422, field


def test_links_lead_to_operations(document: Json) -> None:
    ids = {operation["operationId"] for operation in operations(document).values()}
    links = [
        link
        for operation in operations(document).values()
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert {link["operationId"] for link in links} <= ids
    assert {"delete_model", "label", "forget", "roll_back"} <= {link["operationId"] for link in links}


def test_who_is_told_to_come_again_is_told_when(document: Json) -> None:
    for operation in operations(document).values():
        for status in {"429", "503"} & operation["responses"].keys():
            assert operation["responses"][status]["headers"]["Retry-After"]["required"]
