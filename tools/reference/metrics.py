"""Reference page of the metrics, from `GET /metrics` of a server that has learned a sample."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.settings import Settings
from tools.reference.markdown import document, table

_INTRODUCTION = """\
# Metrics

`GET /metrics` returns them in the Prometheus text format; it needs the scope `read`. A histogram or summary
has the series `_bucket`, `_sum` and `_count`. [Monitor](../how-to/monitor.md) describes what to watch.
A server that learns from topics also has [metrics of them](../how-to/ingest.md#metrics), and a node of a
cluster [metrics of it](../how-to/monitor.md#what-to-look-at).
"""
_OF_SAMPLES = frozenset({"le", "quantile"})


def page() -> str:
    """Return the page of all metrics."""
    families = [each for each in asyncio.run(_collect()) if not each.name.endswith("_created")]
    rows = [(f"`{_name(each)}`", each.type, _labels(each), each.documentation) for each in families]
    return document(_INTRODUCTION, table(["metric", "type", "labels", "what it is"], rows))


async def _collect() -> list[Metric]:
    with TemporaryDirectory() as folder:
        app = create_app(Settings(host="127.0.0.1", data_dir=Path(folder), device="cpu"))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
        async with app.router.lifespan_context(app), client:
            for y in ("a", "b", "a"):  # a score needs two labels and a prediction
                (await client.post("/learn", json={"x": {"a": 1.0}, "y": y})).raise_for_status()
            await client.post("/learn", json={"x": {"a": 1.0}, "y": 0})  # refused: not a string as the others
            answer = await client.get("/metrics")
    return list(text_string_to_metric_families(answer.text))


def _name(metric: Metric) -> str:
    return metric.name + ("_total" if metric.type == "counter" else "")


def _labels(metric: Metric) -> str:
    names = {name for sample in metric.samples for name in sample.labels} - _OF_SAMPLES
    return ", ".join(f"`{name}`" for name in sorted(names))
