"""JSON of an experiment. Each cell is saved at its end, so that an interrupted run can continue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common import report


class Results:
    """Cells by name, of this run and of earlier ones.

    Parameters
    ----------
    path : path
        Path of the JSON; its cells are kept.
    benchmark : str
        Name of the experiment.
    setup : dict
        Everything that the figures of a cell depend on, as JSON.

    Raises
    ------
    ValueError
        If the file has another setup.
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
                raise ValueError(f"{path} has the cells of another setup; move it, or pass another --out")
            self.content = content
        now = report.environment()
        if now not in self.content["environments"]:
            self.content["environments"].append(now)
        self._environment = self.content["environments"].index(now)

    def has(self, name: str) -> bool:
        """Return whether there is a cell of this name."""
        return name in self.content["cells"]

    def add(self, name: str, cell: Mapping[str, Any]) -> None:
        """Add a cell, and save."""
        self.content["cells"][name] = {**cell, "environment": self._environment}
        report.write_json(self._path, self.content)


def read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON of `Results`."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def rounded(values: list[float]) -> list[float]:
    """Return numbers rounded to five digits."""
    return [float(f"{value:.5g}") for value in values]
