"""A collector of traces: what an exporter sends it over HTTP, span by span."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.http_server import QuietHandler, listening


@dataclass(frozen=True)
class ReceivedSpan:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class Receiver:
    url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list[ReceivedSpan])
    # As they came, to look for what must not be in them.
    bodies: list[bytes] = field(default_factory=list[bytes])
    paths: set[str] = field(default_factory=set[str])

    def of_trace(self, trace_id: str) -> list[ReceivedSpan]:
        """In the order of their starts."""
        found = [span for span in self.spans if span.trace_id == trace_id]
        return sorted(found, key=lambda span: span.start_ns)

    def tree(self, trace_id: str) -> list[tuple[int, str]]:
        """Depth and name of each span, children below their parents."""
        spans = self.of_trace(trace_id)
        known = {span.span_id for span in spans}

        def below(parent_id: str | None, depth: int) -> Iterator[tuple[int, str]]:
            for span in spans:
                top = span.parent_id not in known
                if top if parent_id is None else span.parent_id == parent_id:
                    yield depth, f"{span.service}: {span.name}"
                    yield from below(span.span_id, depth + 1)

        return list(below(None, 0))

    def take(self, path: str, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        self.paths.add(path)
        self.bodies.append(body)
        for of_resource in request.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self.spans.append(
                        ReceivedSpan(
                            resource.get("service.name", ""),
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            span.status.code == 2,
                            _values(span.attributes),
                            resource,
                        )
                    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    kind = pair.value.WhichOneof("value")
    return None if kind is None else getattr(pair.value, kind)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A collector on a free port of this machine."""
    receiver = Receiver()

    class Answer(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take(self.path, body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

    with listening(Answer) as receiver.url:
        yield receiver
