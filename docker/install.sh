#!/bin/sh
# pip install into /opt/venv at the pinned versions: from the folder of wheels alone where the build was given one, else
# from the registry. Called by the Dockerfile.
set -eu
if ls /wheels/*.whl >/dev/null 2>&1; then
    set -- --no-index --find-links /wheels "$@"
fi
exec pip --disable-pip-version-check --python /opt/venv/bin/python install \
    --quiet --no-compile --root-user-action ignore --only-binary :all: --constraint constraints.txt "$@"
