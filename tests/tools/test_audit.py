"""The licences of what is installed, as `make audit` judges them."""

from __future__ import annotations

from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

from tools.audit import doubtful


def package(folder: Path, *lines: str) -> Distribution:
    """Return a package with this metadata."""
    info = folder / "thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.4", "Name: thing", "Version: 1.0", *lines, ""])
    )
    return Distribution.at(info)


def test_nothing_that_is_installed_is_in_doubt() -> None:
    assert list(doubtful(distributions())) == []


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: GPL-3.0-or-later",
        "License-Expression: MIT AND MPL-2.0",
        "License: Proprietary",
        "Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
        "Summary: without a licence",
    ],
)
def test_what_is_not_permissive_or_not_known_is_named(tmp_path: Path, line: str) -> None:
    assert [text.split(":")[0] for text in doubtful([package(tmp_path, line)])] == ["thing 1.0"]


def test_what_is_permissive_is_not(tmp_path: Path) -> None:
    assert list(doubtful([package(tmp_path, "License-Expression: (MIT OR Apache-2.0) AND Zlib")])) == []
