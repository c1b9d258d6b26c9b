"""Commands that install the package: from a checkout, with extras that it has."""

from __future__ import annotations

import re
import tomllib

from tests.docs.blocks import DOCS
from tests.support.programs import ROOT

_EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
#: Packages of others.
_OTHERS = {"tritonclient[http]", "s3fs"}


def test_each_command_names_the_checkout_and_extras_that_exist() -> None:
    pages = [ROOT / "README.md", *DOCS.glob("**/*.md")]
    commands = [
        command
        for page in pages
        for command in re.findall(r"pip install ([^`\n#]+)", page.read_text("utf-8"))
    ]
    assert len(commands) > 10
    for command in commands:
        package = command.split()[-1].strip("'")
        if package in _OTHERS:
            continue
        found = re.fullmatch(r"\.(?:\[([a-z,]+)\])?", package)
        assert found is not None, f"{command!r}: the package is not in an index: install it from a checkout"
        assert {*filter(None, (found[1] or "").split(","))} <= _EXTRAS.keys(), command
