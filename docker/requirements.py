"""Print the requirements of the image: dependencies of the library and the server, and the build back end."""

import tomllib
from pathlib import Path

pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
project = pyproject["project"]
extras = project["optional-dependencies"]
required = [
    *project["dependencies"],
    *extras["server"],
    *extras["client"],
    *extras["cluster"],
    *extras["kafka"],
    *extras["nats"],
    *pyproject["build-system"]["requires"],
]
print(*(each for each in required if not each.startswith(project["name"])), sep="\n")
