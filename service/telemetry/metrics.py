"""Prometheus metrics of requests and of commits of the event log."""

from __future__ import annotations

from collections import Counter as Totals

from prometheus_client import CollectorRegistry, Counter, Histogram

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """Counters and histograms of requests by route template, method and outcome.

    No client can increase the number of series: none of the labels has values of its choice.

    Attributes
    ----------
    series : dict
        Counter and histogram by route, method and status. A lookup by labels takes longer than an update.
    """

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
        self.series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def add(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        """Return the series of a combination of labels, and store it unless the client chose the method."""
        known = method in _METHODS
        label = method if known else "other"
        found = (
            self._requests.labels(route, label, str(status)),
            self._seconds.labels(route, label, outcome_of(status)),
        )
        if known:
            self.series[route, method, status] = found
        return found

    def latency(self, *routes: str) -> list[tuple[float, int]]:
        """Return the cumulative histogram of the POST requests of routes: upper bounds and counts."""
        totals: Totals[float] = Totals()
        for family in self._seconds.collect():
            for sample in family.samples:
                of = sample.labels
                if sample.name.endswith("_bucket") and of["route"] in routes and of["method"] == "POST":
                    totals[float(sample.labels["le"])] += int(sample.value)
        return sorted(totals.items())


class LogMetrics:
    """Histogram and counter of the commits of the event log."""

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
    """Return the outcome of a status: ``"ok"``, ``"refused"`` (4xx) or ``"failed"`` (5xx).

    Examples
    --------
    >>> outcome_of(201), outcome_of(429), outcome_of(503)
    ('ok', 'refused', 'failed')
    """
    if status < 400:
        return "ok"
    return "refused" if status < 500 else "failed"
