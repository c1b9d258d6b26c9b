"""Prometheus metrics of requests and of commits of the event log."""

from __future__ import annotations

from collections import Counter as Totals
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Histogram

#: Upper bounds of the time of a request or a part of a stream.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """Counters and histograms of requests by route template, method and outcome.

    Streams have histograms of their own: the time of a stream depends on its length, not on the server.

    No client can increase the number of series: none of the labels has values of its choice.

    Attributes
    ----------
    series : dict
        Counter and histogram by route, method, status, and whether the request was a stream. A lookup by
        labels takes longer than an update.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "bnp_http_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "bnp_http_request_duration_seconds",
            "Time from a request's head to the end of its answer, without streams.",
            ["route", "method", "outcome"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._streams = Histogram(
            "bnp_http_stream_duration_seconds",
            "Time from a stream's head to the end of its answer: of samples or events.",
            ["route", "method", "outcome"],
            registry=registry,
            buckets=(0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0),
        )
        self._parts = Histogram(
            "bnp_http_stream_part_duration_seconds",
            "Time of a part of a stream of samples, from its arrival to its answers.",
            ["route"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.series: dict[tuple[str, str, int, bool], tuple[Counter, Histogram]] = {}

    def add(self, route: str, method: str, status: int, *, stream: bool) -> tuple[Counter, Histogram]:
        """Return the series of a combination of labels, and store it unless the client chose the method."""
        known = method in _METHODS
        label = method if known else "other"
        seconds = self._streams if stream else self._seconds
        found = (
            self._requests.labels(route, label, str(status)),
            seconds.labels(route, label, outcome_of(status)),
        )
        if known:
            self.series[route, method, status, stream] = found
        return found

    def part(self, route: str) -> Histogram:
        """Return the histogram of the parts of streams to a route."""
        return self._parts.labels(route)

    def latency(self, *routes: str) -> list[tuple[float, int]]:
        """Return the cumulative histogram of single POST requests to routes: upper bounds and counts."""
        return _cumulative(self._seconds, routes)

    def stream_latency(self, *routes: str) -> list[tuple[float, int]]:
        """Return the cumulative histogram of the parts of streams to routes: upper bounds and counts."""
        return _cumulative(self._parts, routes)


def _cumulative(histogram: Histogram, routes: Collection[str]) -> list[tuple[float, int]]:
    totals: Totals[float] = Totals()
    for family in histogram.collect():
        for sample in family.samples:
            of = sample.labels
            if (
                sample.name.endswith("_bucket")
                and of["route"] in routes
                and of.get("method") in (None, "POST")
            ):
                totals[float(of["le"])] += int(sample.value)
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
