"""The JSON of an experiment: each cell is saved as soon as it is done, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common import report


class Results:
    """Cells by name, in this run and in those before it.

    Parameters
    ----------
    path : path
        Of the JSON; cells in it stand.
    benchmark : str
        Name of the experiment.
    setup : dict
        All that the figures of a cell depend on, as JSON.

    Raises
    ------
    ValueError
        If the file is of another setup.
    """

    def __init__(self, path: Path, benchmark: str, setup: Mapping[str, Any]) -> None:
        self._path = path
        setup = json.loads(json.dumps(setup))
        self.content: dict[str, Any] = {
            "benchmark": benchmark,
            "setup": setup,
            "environments": [],
            "cells": {},
        }
        if path.exists():
            content = read(path)
            if content["setup"] != setup or content["benchmark"] != benchmark:
                raise ValueError(
                    f"{path} holds the cells of another setup: move it away, or give another --out"
                )
            self.content = content
        now = report.environment()
        if now not in self.content["environments"]:
            self.content["environments"].append(now)
        self._environment = self.content["environments"].index(now)

    def has(self, name: str) -> bool:
        """Return whether a cell stands."""
        return name in self.content["cells"]

    def add(self, name: str, cell: Mapping[str, Any]) -> None:
        """Take a cell, and save."""
        self.content["cells"][name] = {**cell, "environment": self._environment}
        report.write_json(self._path, self.content)


def read(path: Path) -> dict[str, Any]:
    """Return what `Results` wrote."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def rounded(values: list[float]) -> list[float]:
    """Return numbers with as many digits as are of use."""
    return [float(f"{value:.5g}") for value in values]
