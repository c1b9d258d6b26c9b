"""Generators of clients read the server's document without a warning, and what they generate works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from service.auth.keys import new_secret
from service.auth.scopes import SCOPES
from tests.support.programs import ROOT
from tests.support.running import Server, serving

FOLDER = Path(__file__).parent
#: The generator for Python, and those of its requirements that our own exclude.
PYTHON_GENERATOR = ("openapi-python-client==0.29.1", "ruamel.yaml==0.19.1", "typer==0.27.3")
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm (apt-get install npm)")


class Body(NamedTuple):
    """A request body of the documentation."""

    place: str
    method: str
    path: str
    json: str


def bodies() -> Iterator[Body]:
    """Yield the JSON bodies of the curl commands in the README and the documentation."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for command in re.findall(r"\bcurl [^\n]*", page.read_text().replace("\\\n", " ")):
            path = re.search(r"localhost:8000(/\S*)", command)
            sent = re.search(r" -d '(\{[^']*\})'", command)
            if path and sent:
                method = re.search(r" -X (\w+)", command)
                place = str(page.relative_to(ROOT))
                yield Body(place, method[1].lower() if method else "post", path[1], sent[1])


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a program, and return what it prints."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def secret() -> str:
    return new_secret()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, secret: str) -> Iterator[Server]:
    keys = f"all {','.join(SCOPES)} {secret}"
    with serving(tmp_path_factory.mktemp("server"), api_keys=keys) as running:
        yield running


def template(document: dict[str, dict[str, object]], path: str) -> str:
    """Return the path of the document that a path matches."""
    patterns = {each: re.sub(r"\{\w+\}", "[^/]+", each) for each in document["paths"]}
    return next(each for each, pattern in patterns.items() if re.fullmatch(pattern, path))


@needs_npm
def test_openapi_typescript_generates_types_for_the_bodies_of_the_documentation(
    server: Server, tmp_path: Path
) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(FOLDER / name, tmp_path)
    run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=tmp_path)
    programs = tmp_path / "node_modules" / ".bin"
    said = run(programs / "openapi-typescript", f"{server.url}/openapi.json", "-o", "api.ts", cwd=tmp_path)
    assert all(line.startswith(("✨", "🚀")) for line in said.splitlines() if line), said
    document, found = server.get("/openapi.json"), [*bodies()]
    assert {body.path for body in found} >= {"/learn", "/predict", "/label", "/models/default/rollback"}
    (tmp_path / "bodies.ts").write_text(
        """import type { paths } from "./api";
type Body<P extends keyof paths, M extends keyof paths[P]> =
  paths[P][M] extends { requestBody: { content: { "application/json": infer B } } } ? B : never;
// @ts-expect-error a list is no value of a feature
export const wrong: Body<"/learn", "post"> = {"x": {"a": [1]}, "y": "b"};
"""
        + "\n".join(
            f'export const body{i}: Body<"{template(document, body.path)}", "{body.method}"> = {body.json}; '
            f"// {body.place}"
            for i, body in enumerate(found)
        )
    )
    run(programs / "tsc", "--noEmit", "--strict", "--exactOptionalPropertyTypes", "bodies.ts", cwd=tmp_path)


USE = """
import sys

from generated import AuthenticatedClient
from generated.api.learning import label, learn
from generated.api.models import create_model, roll_back
from generated.api.predicting import predict
from generated.models import (
    FeatureValues, LabelBody, LearnAnswer, LearnBody, ModelDescription, ModelSpec, PredictAnswer,
    PredictBody, Probabilities, RollbackAnswer, RollbackToStep,
)

with AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2]) as client:
    made = create_model.sync(client=client, body=ModelSpec(name="door", hidden=[4]))
    assert isinstance(made, ModelDescription), made
    x = FeatureValues.from_dict({"temperature": 21.5, "city": "Lund", "wind": None})
    learned = learn.sync(client=client, body=LearnBody(x=x, y="open", model="door"))
    assert isinstance(learned, LearnAnswer), learned
    predicted = predict.sync(client=client, body=PredictBody(x=x, model="door", id="t-1"))
    assert isinstance(predicted, PredictAnswer), predicted
    assert predicted.prediction == "open" and isinstance(predicted.probabilities, Probabilities)
    labelled = label.sync(client=client, body=LabelBody(id="t-1", y="shut", model="door"))
    assert isinstance(labelled, LearnAnswer), labelled
    back = roll_back.sync("door", client=client, body=RollbackToStep(step=1))
    assert isinstance(back, RollbackAnswer), back
    print(labelled.step, predicted.probabilities["open"], back.step)
"""


def test_a_generated_python_client_learns_and_predicts(server: Server, secret: str, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    run(*pip, "--no-deps", "--target", packages, *PYTHON_GENERATOR, cwd=tmp_path)
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # for ruff, which formats
    generate = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    said = run(
        *generate,
        "--url",
        f"{server.url}/openapi.json",
        "--output-path",
        "generated",
        cwd=tmp_path,
        PYTHONPATH=str(packages),
        **path,
    )
    assert said.split() == ["Generating", "generated"]
    (tmp_path / "use.py").write_text(USE)
    said = run(sys.executable, "use.py", server.url, secret, cwd=tmp_path)
    assert said.split() == ["2", "1.0", "1"]
    check = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--follow-imports=silent"]
    assert "no issues" in run(*check, "use.py", cwd=tmp_path)


def test_names_of_schemas_are_words(server: Server) -> None:
    """No name that FastAPI or pydantic puts together, such as ``Body_learn`` or ``ModelSpec-Input``."""
    names = server.get("/openapi.json")["components"]["schemas"]
    assert [name for name in names if not re.fullmatch(r"([A-Z][a-z]+)+", name)] == []


def test_no_optional_field_of_a_request_has_a_default(server: Server) -> None:
    """Some generators require a field with a default; others send the default of an earlier version."""
    document = server.get("/openapi.json")
    schemas = document["components"]["schemas"]
    assert [
        name for name, schema in schemas.items() if '"default"' in json.dumps(schema.get("properties"))
    ] == []
    assert schemas["ModelSpec"]["properties"]["replay"]["description"].endswith("Default: `3`.")
