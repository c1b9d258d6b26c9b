"""Prometheus metrics of what happens between two scrapes, on a registry that is passed in."""

from __future__ import annotations

from collections import Counter as Totals

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import Scope

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """Counts and times requests by route template, method and outcome: labels that no client can multiply."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "bnp_http_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "bnp_http_request_duration_seconds",
            "Time from the request's head to the end of its answer: of a stream, of all its lines.",
            ["route", "method", "outcome"],
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
        totals: Totals[float] = Totals()
        for family in self._seconds.collect():
            for sample in family.samples:
                if sample.name.endswith("_bucket") and wanted.items() <= sample.labels.items():
                    totals[float(sample.labels["le"])] += int(sample.value)
        return sorted(totals.items())

    def _find(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        durations = self._seconds.labels(route, method, outcome_of(status))
        series = self._requests.labels(route, method, str(status)), durations
        self._found[route, method, status] = series
        return series


class LogMetrics:
    """Times the commits of the event log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.commits = Histogram(
            "bnp_log_commit_duration_seconds",
            "Time of a commit of the event log: what waits, of all models, is one.",
            registry=registry,
            buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
        )
        self.failures = Counter(
            "bnp_log_commit_failures",
            "Commits of the event log that failed: what they held was refused.",
            registry=registry,
        )


def outcome_of(status: int) -> str:
    """Return what became of a request: ``"ok"``, ``"refused"`` by a 4xx, ``"failed"`` by a 5xx.

    Examples
    --------
    >>> outcome_of(201), outcome_of(429), outcome_of(503)
    ('ok', 'refused', 'failed')
    """
    if status < 400:
        return "ok"
    return "refused" if status < 500 else "failed"


def route_of(scope: Scope) -> str:
    """Return the path of the route that took a request, not of the request, once it was routed."""
    if "route" in scope:
        return str(scope["route"].path)
    # Plain Starlette routes leave only their endpoint here; as ours have no parameters, the path will do.
    return str(scope["path"]) if "endpoint" in scope else "unmatched"
