"""Print what the image needs beside the project: its dependencies, the service's, and its build back end."""

import tomllib
from pathlib import Path

pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
project = pyproject["project"]
print(
    *project["dependencies"],
    *project["optional-dependencies"]["service"],
    *pyproject["build-system"]["requires"],
    sep="\n",
)
