#!/usr/bin/env bash
# Build the image without a network, run it and try it, with a real Docker engine: `make test-docker`.
# Ends with 3 where there is no engine.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

if ! reason=$(docker info 2>&1 >/dev/null); then
    echo "make test-docker needs a Docker engine, and none answers here: ${reason##*$'\n'}" >&2
    exit 3
fi
docker/wheels.sh
exec "$python" -m pytest -m docker tests/docker "$@"
