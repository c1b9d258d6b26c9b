"""Prometheus metrics, on a registry that is passed in."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector
from starlette.types import Scope

from service.catalog import Catalog

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """Counts and times requests by route template, method and status: labels that no client can multiply."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "bnp_http_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "bnp_http_request_duration_seconds",
            "Time from the request's head to the end of its answer.",
            ["route", "method"],
            registry=registry,
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
        )
        # To find the series by their labels takes longer than to change them (3.3 µs together, so 1.3).
        self._found: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Record an answered request."""
        found = self._found.get((route, method, status))
        if found is None:
            found = self._find(route, method if method in _METHODS else "other", status)
        requests, durations = found
        requests.inc()
        durations.observe(seconds)

    def durations(self, route: str) -> list[tuple[float, int]]:
        """Return how many POST requests of a route were answered within which time, the shortest first."""
        wanted = {"route": route, "method": "POST"}
        return [
            (float(sample.labels["le"]), int(sample.value))
            for family in self._seconds.collect()
            for sample in family.samples
            if sample.name.endswith("_bucket") and wanted.items() <= sample.labels.items()
        ]

    def _find(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        series = self._requests.labels(route, method, str(status)), self._seconds.labels(route, method)
        self._found[route, method, status] = series
        return series


def route_of(scope: Scope) -> str:
    """Return the path of the route that took a request, not of the request, once it was routed."""
    if "route" in scope:
        return str(scope["route"].path)
    # Plain Starlette routes leave only their endpoint here; as ours have no parameters, the path will do.
    return str(scope["path"]) if "endpoint" in scope else "unmatched"


class ModelCollector(Collector):
    """Reads the models' own counters when asked, so that learning pays nothing and deleted models vanish."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[Metric]:
        """Yield the families, each with a series for every model."""
        learned = CounterMetricFamily("bnp_model_learned", "Samples learned.", labels=["model"])
        predicted = CounterMetricFamily("bnp_model_predicted", "Predictions answered.", labels=["model"])
        step = GaugeMetricFamily("bnp_model_step", "Samples in the model's state.", labels=["model"])
        depth = GaugeMetricFamily("bnp_model_queue_depth", "Requests that wait.", labels=["model"])
        up = GaugeMetricFamily("bnp_model_up", "1, or 0 if the model failed.", labels=["model"])
        last = GaugeMetricFamily(
            "bnp_model_last_loss", "Prequential loss of the last sample.", labels=["model"]
        )
        loss = SummaryMetricFamily(
            "bnp_model_loss", "Prequential loss; its mean is sum / count.", labels=["model"]
        )
        for learner in self._catalog:
            model, name = learner.model, [learner.model.name]
            learned.add_metric(name, model.step)
            predicted.add_metric(name, model.predicted)
            step.add_metric(name, model.step)
            depth.add_metric(name, learner.queue_depth)
            up.add_metric(name, 0.0 if learner.failed else 1.0)
            loss.add_metric(name, count_value=model.scored, sum_value=model.loss_sum)
            if model.last_loss is not None:
                last.add_metric(name, model.last_loss)
        yield from (learned, predicted, step, depth, up, last, loss)
