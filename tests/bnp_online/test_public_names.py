from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bnp_online
from bnp_online import errors

PACKAGE = Path(bnp_online.__file__).parent


def test_the_public_names_are_these() -> None:
    assert bnp_online.__all__ == [
        "BNP",
        "SGLD",
        "BNPClassifier",
        "BNPError",
        "BNPRegressor",
        "Backbone",
        "BackboneError",
        "CheckpointError",
        "ConfigurationError",
        "DeviceLostError",
        "DeviceMemoryError",
        "NonFiniteStateError",
        "RunningMoments",
        "SampleError",
        "StateError",
        "UnobservedLayerError",
        "UnsupportedLayerError",
        "iter_samples",
        "learn_together",
        "load",
        "load_backbone",
        "read_samples",
        "save_backbone",
    ]
    assert all(inspect.getdoc(getattr(bnp_online, name)) for name in bnp_online.__all__)


def test_names_are_imported_on_first_use() -> None:
    code = (
        "import sys, bnp_online; assert 'torch' not in sys.modules;"
        "assert {*bnp_online.__all__} < {*dir(bnp_online)};"
        "from bnp_online import *; assert BNP is bnp_online.preconditioner.BNP;"
        "assert 'torch' in sys.modules;"
        "assert not hasattr(bnp_online, 'nothing'); print(bnp_online.errors.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bnp_online.errors"]


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return names


def test_river_is_imported_by_four_files() -> None:
    users = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "river" in imported(path)}
    assert users == {"client/remote.py", "contrib/bandit.py", "estimators.py", "evaluation/prequential.py"}


@pytest.mark.parametrize(
    ("former", "place", "name"),
    [
        ("evaluate", "evaluation.prequential", "prequential"),
        ("baselines", "evaluation.baselines", "Baselines"),
        ("drift", "evaluation.drift", "ADWIN"),
        ("bandit", "contrib.bandit", "BNPThompsonSampling"),
        ("langevin", "contrib.langevin", "SGLD"),
    ],
)
def test_a_former_place_names_the_new_one(former: str, place: str, name: str) -> None:
    module = importlib.import_module(f"bnp_online.{former}")
    with pytest.warns(DeprecationWarning, match=rf"bnp_online\.{place}\.{name}$") as caught:
        exec(f"from bnp_online.{former} import {name} as found", found := dict[str, Any]())  # noqa: S102
    assert caught[0].filename == "<string>"
    assert found["found"] is getattr(importlib.import_module(f"bnp_online.{place}"), name)
    assert found["found"] is getattr(importlib.import_module(f"bnp_online.{place.partition('.')[0]}"), name)
    with pytest.raises(AttributeError):
        _ = module.nothing


#: A branch of the picture: what stands before it, the class, and the base that it has beside its parent.
BRANCH = re.compile(r"(?P<stem>.*)── (?P<name>\w+)(?: \((?P<base>\w+)\))?")


def test_every_error_is_drawn_where_it_stands() -> None:
    assert errors.__doc__ is not None
    parents: list[type] = [errors.BNPError]
    seen = {"BNPError"}
    for match in BRANCH.finditer(errors.__doc__):
        depth, kind = (len(match["stem"]) - 5) // 4, getattr(errors, match["name"])
        del parents[depth + 1 :]
        bases = [each.__name__ for each in kind.__bases__]
        assert bases == [parents[depth].__name__, *([match["base"]] if match["base"] else [])]
        parents.append(kind)
        seen.add(match["name"])
    classes = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert seen == classes
    assert classes <= set(bnp_online.__all__)


def test_every_error_says_what_it_is() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type):
            assert issubclass(kind, errors.BNPError)
            assert kind.__doc__, name


def test_an_error_with_a_field_begins_its_message_with_it() -> None:
    sample = errors.SampleError("invalid_feature", "x.a", "must be a number")
    assert str(sample) == "x.a: must be a number"
    assert (sample.code, sample.field, sample.message) == ("invalid_feature", "x.a", "must be a number")
    configuration = errors.ConfigurationError("lr", "is not > 0")
    assert str(configuration) == "lr: is not > 0"
    assert (configuration.field, configuration.message) == ("lr", "is not > 0")
