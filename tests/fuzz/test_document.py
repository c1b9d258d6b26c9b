"""The server does what its OpenAPI document says, and nothing else: schemathesis, with all of its checks."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.auth.keys import new_secret
from service.auth.scopes import SCOPES
from service.schemas import ModelSpec
from tests.support.running import serving

ROOT = Path(__file__).parents[2]
SMALL = {"hidden": [4], "replay": 1, "memory": 10}
LIMITS = {"max_features": 50, "max_classes": 10, "max_models": 1000, "max_body_bytes": 20_000}
#: How long; without it the same examples in every run. `make fuzz` takes its time.
SECONDS = int(os.environ.get("BNP_TEST_FUZZ_SECONDS", "0"))


def schemathesis(url: str, key: str, folder: Path) -> str:
    """Put schemathesis to a server, with a key for everything; return what it prints at the end."""
    seed = random.SystemRandom().randrange(10**6)
    effort = [f"--max-time={SECONDS}", f"--seed={seed}"] if SECONDS else ["--generation-deterministic"]
    config = Path(__file__).with_name("schemathesis.toml")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    options = ["--checks=all", "--max-examples=50", "--continue-on-failure", "--no-color", *effort]
    done = subprocess.run(
        [*command, f"{url}/openapi.json", f"--header=Authorization: Bearer {key}", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    return done.stdout


@pytest.mark.fuzz
@pytest.mark.timeout(600 + 2 * SECONDS)
def test_the_server_is_as_its_document_says(tmp_path: Path) -> None:
    default = ModelSpec.model_validate_json(json.dumps(SMALL))
    key = new_secret()
    keys = f"everything {','.join(SCOPES)} {key}"
    with serving(tmp_path / "data", default_model=default, api_keys=keys, **LIMITS) as server:
        server.client.headers["authorization"] = f"Bearer {key}"
        server.create(name="numbers", task="regression", **SMALL)
        server.create(name="images", input_shape=[2, 2], **SMALL)
        server.create(name="imported", **SMALL)
        said = schemathesis(server.url, key, tmp_path)
        operations = sum(len(methods) for methods in server.get("/openapi.json")["paths"].values())
        assert re.search(rf"Tested: {operations - 4}\b", said)  # all but three streams and the token
        followed = re.search(r"API Links: +(\d+) covered", said)
        assert followed is not None
        assert int(followed[1]) > 5
        assert server.get("/health/ready") == {"status": "ready"}
        assert {model["state"] for model in server.get("/models")["models"]} == {"ready"}
