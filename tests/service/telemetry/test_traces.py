"""Spans of requests and groups, as a collector of OpenTelemetry receives them over a socket."""

from __future__ import annotations

import http.server
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from service.settings import Settings
from service.telemetry import traces
from tests.support.running import Server
from tests.support.streaming import post_lines


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """A receiver of OTLP over HTTP; gives a function that returns the spans received so far."""
    received: queue.Queue[bytes] = queue.Queue()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            received.put(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{listening.server_address[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")

        def spans() -> list[Any]:
            found = []
            while not received.empty():
                for resource in ExportTraceServiceRequest.FromString(received.get()).resource_spans:
                    about = attributes(resource.resource)
                    assert about["service.name"] == "bnp-online"
                    assert about["deployment.environment"] == "test"
                    found += [span for scope in resource.scope_spans for span in scope.spans]
            return found

        yield spans
        listening.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_a_collector_receives_a_span_per_request_and_per_group(
    collector: Callable[[], list[Any]], serve: Callable[..., Server]
) -> None:
    server = serve(traces=True)
    began = time.time_ns()
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01"}
    server.client.post("/learn", json={"x": {"a": 1}, "y": "cat"}, headers=headers).raise_for_status()
    server.predict({"a": 1})
    server.get("/models/default")
    post_lines(server, [{"x": {"a": i}, "y": "cat"} for i in range(7)])
    assert server.client.get("/models/nobody").status_code == 404
    server.stop()  # it exports the last spans
    spans = collector()
    requests = [span for span in spans if span.kind == 2]  # SERVER, in the order of their ends
    requests.sort(key=lambda span: int(span.start_time_unix_nano))
    seen = [(span.name, attributes(span)["http.response.status_code"]) for span in requests]
    assert seen == [
        ("POST /learn", 200),
        ("POST /predict", 200),
        ("GET /models/{m}", 200),
        ("POST /learn", 200),
        ("GET /models/{m}", 404),
    ]
    assert attributes(requests[2])["bnp.model"] == "default"
    groups = [span for span in spans if span.name == "learn group"]
    assert {attributes(span)["bnp.model"] for span in groups} == {"default"}
    assert sum(attributes(span)["bnp.samples"] for span in groups) == 8
    first, stream = requests[0], requests[3]
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (trace, parent)
    assert [link.span_id for link in groups[0].links] == [first.span_id]
    for group in groups[1:]:
        assert [link.span_id for link in group.links] == [stream.span_id]
    for span in spans:
        assert began <= span.start_time_unix_nano <= span.end_time_unix_nano


def test_nothing_is_exported_by_default(
    collector: Callable[[], list[Any]], serve: Callable[..., Server]
) -> None:
    server = serve()
    server.learn({"a": 1}, "cat")
    server.stop()
    assert collector() == []


def test_a_request_that_fails_has_a_span(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr("service.app.enable", lambda: traces.enable(exporter))
    server = serve(traces=True, ready_timeout=0.2)
    with server.held():
        assert server.client.get("/health/ready").status_code == 503
    server.stop()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind, span.status.is_ok) == ("GET /health/ready", SpanKind.SERVER, False)


def test_without_the_packages_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'bnp-online\[traces\]'"):
        Settings(traces=True)
    assert not Settings(traces=False).traces
