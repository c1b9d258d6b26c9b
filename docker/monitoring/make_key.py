"""Give Prometheus a key that reads, and the server its hash: run once by the profile "monitoring".

It runs in the server's image and beside the server's process, which it tells to read its keys again. If the
key that is there still works, nothing is done. BNP_METRICS_KEY is a key to take in place of a new one.
"""

import os
import secrets
import signal
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

from bnp_online_server.auth.key_file import add_key, file_of
from bnp_online_server.auth.keys import KeysError, new_secret, parse_key
from bnp_online_server.settings import read_settings

KEY = Path("/metrics-key/key")
SERVER = ("server", 8000)


def works(secret: str) -> bool:
    """Return whether the server lets the key read its metrics."""
    connection = HTTPConnection(*SERVER, timeout=10)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {secret}"})
    return connection.getresponse().status == 200


def introduce(secret: str) -> None:
    """Add the key's hash to the server's file, and let the server read it."""
    name = f"prometheus-{secrets.token_hex(3)}"
    add_key(parse_key(f"{name} read {secret}", hashed=False), file_of(read_settings()))
    os.kill(1, signal.SIGHUP)  # the namespace of processes is the server's


def keep(secret: str) -> None:
    """Write the key for this user and its group, of which Prometheus is."""
    new = KEY.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440), "w") as file:
        file.write(secret)
    new.replace(KEY)


given = os.environ.get("BNP_METRICS_KEY")
secret = given or (KEY.read_text() if KEY.exists() else new_secret())
if not given and not works(secret):
    try:
        introduce(secret)
    except KeysError as error:
        sys.exit(str(error))
for _ in range(50):
    if works(secret):
        keep(secret)
        sys.exit()
    time.sleep(0.1)
sys.exit(
    "The server does not take the key. If its keys come from BNP_API_KEYS, add one with the scope read "
    "there, and put it into BNP_METRICS_KEY."
)
