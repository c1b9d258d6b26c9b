#!/usr/bin/env bash
# Fill wheels/ with everything that the image installs, for a build without a network.
# Run it on a connected Linux machine of the same processor architecture. pip looks where it is configured to look: the
# build of torch that it finds there, CPU or CUDA, is the one that the image gets.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

requirements=$(mktemp)
trap 'rm -f "$requirements"' EXIT
"$python" docker/requirements.py >"$requirements"

stamp=$(cat "$requirements" constraints.txt "$0" | sha256sum)
if [[ -f wheels/.stamp && $(<wheels/.stamp) == "$stamp" ]]; then
    echo "wheels/ is up to date"
    exit
fi

mkdir -p wheels
rm -f wheels/.stamp wheels/*.whl
"$python" -m pip --disable-pip-version-check download --dest wheels --quiet --progress-bar off \
    --python-version 3.11 --only-binary :all: --constraint constraints.txt --requirement "$requirements"
echo "$stamp" >wheels/.stamp
du -sh wheels
