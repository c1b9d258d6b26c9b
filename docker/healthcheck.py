"""Exit with 0 when the server of this container answers that it is ready: the image's HEALTHCHECK."""

import os
import sys
from http.client import HTTPConnection, HTTPException

connection = HTTPConnection("127.0.0.1", int(os.environ.get("BNP_PORT", "8000")), timeout=4)
try:
    connection.request("GET", "/health/ready")
    answer = connection.getresponse()
    print(answer.status, answer.read(500).decode("utf-8", "replace"))
except (OSError, HTTPException) as error:
    sys.exit(f"no answer: {error!r}")
sys.exit(answer.status != 200)
