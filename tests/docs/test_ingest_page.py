"""Steps of the page on topics: with each broker, the model learns the message that the page publishes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.blocks import DOCS, blocks, matches, run
from tests.support.brokers import broker


@pytest.mark.parametrize("kind", ["kafka", "nats"])
def test_the_steps_let_a_model_learn(kind: str, tmp_path: Path) -> None:
    found = [*blocks(DOCS / "how-to" / "ingest.md")]
    kafka, nats, *others = found[:5]
    assert ("confluent_kafka" in kafka.text, "import nats" in nats.text) == (True, True)
    last = others[-1]
    assert last.output is not None
    with broker(kind) as running:
        if kind == "kafka":  # as a broker does by default; the mock cluster would make four partitions
            running.create("samples")
        address = urlsplit(running.url("samples")).netloc
        steps = [
            replace(each, text=each.text.replace("kafka://localhost:9092", f"{kind}://{address}"))
            for each in others
        ]
        publish = kafka if kind == "kafka" else nats
        for given in ("localhost:9092", "localhost:4222"):
            publish = replace(publish, text=publish.text.replace(given, address))
        # The page does not say how long it takes.
        steps[-1] = replace(
            last, text=f"until {last.text.strip()} | grep '\"learned\":1'; do sleep 0.1; done\n"
        )
        printed = run([publish, *steps], tmp_path)
    shown = (
        last.output if kind == "kafka" else last.output.replace("kafka", "nats").replace(':1,"lag', ':2,"lag')
    )
    assert matches(shown, printed[-1])
