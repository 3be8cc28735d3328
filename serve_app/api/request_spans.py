"""The spans of a generating request. Imported only where requests are traced (tracing.py).

A span never has text of a prompt, an answer or a credential. Attributes have OpenTelemetry's names
for generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/) where it has one, and
`tierserve.*` otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as OpenTelemetryTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.request_context import REQUEST_ID_HEADER, header
from serve_app.api.routes import COMPLETIONS, GENERATING, Endpoint

if TYPE_CHECKING:
    from serve_app.api.response import ResponseForm
    from serve_app.api.rules import PreparedRequest

SERVICE = "tierserve"
# A process that is killed loses the spans of so long a time.
EXPORT_EVERY_MS = 1000
TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})
# What a request's record has of its end, and the attribute that it becomes. Nothing else of it goes
# into a span: with `log_prompts` it has the prompt.
_OUTCOME = {
    "outcome": "tierserve.outcome",
    "reason": "error.type",
    "queue_wait_s": "tierserve.queue_wait_s",
    "chunks": "tierserve.chunks",
    "replayed": "tierserve.replayed",
    "lender": "tierserve.lender",
    "borrower": "tierserve.borrower",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
_ASKED = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
}
_PROPAGATOR = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Tracer:
    """`url` is where spans go, for vLLM's own too."""

    url: str
    tracer: OpenTelemetryTracer
    provider: TracerProvider

    @classmethod
    def exporting_to(
        cls, url: str, environment: Mapping[str, str], resource: Mapping[str, str]
    ) -> "Tracer":
        """With a provider of its own: vLLM sets the one of the whole process."""
        service = environment.get("OTEL_SERVICE_NAME") or SERVICE
        of_all = Resource.create({"service.name": service, **resource})
        provider = TracerProvider(resource=of_all)
        every_ms = float(environment.get("OTEL_BSP_SCHEDULE_DELAY") or EXPORT_EVERY_MS)
        exporter = OTLPSpanExporter(endpoint=url)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=every_ms))
        return cls(url, provider.get_tracer(SERVICE), provider)

    def begin(self, scope: Scope, form: "ResponseForm", model: str, key: str) -> "RequestTrace":
        """The span of a request to a tier, and its first step. `key` is the name of its key, empty
        without one."""
        operation = "text_completion" if form.endpoint is COMPLETIONS else "chat"
        attributes = {
            **_received(form.endpoint, form.request_id.value),
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": SERVICE,
            "gen_ai.request.model": model,
            **({"tierserve.key": key} if key else {}),
        }
        trace = self._begin(scope, f"{operation} {model}", attributes)
        trace.enter("admission")
        return trace

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application that forwards requests to the tiers, with a span for each that generates:
        its headers are forwarded, so the tier's span is below it."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            endpoint = GENERATING.get(scope.get("path", "")) if scope["type"] == "http" else None
            if endpoint is None or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            # 499: nobody was answered.
            status = 499

            async def observed(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            request_id = (header(scope, REQUEST_ID_HEADER) or b"").decode()
            trace = self._begin(scope, f"POST {endpoint.path}", _received(endpoint, request_id))
            try:
                await app(scope, receive, observed)
            finally:
                trace.end(status, {})

        return traced

    def _begin(self, scope: Scope, name: str, attributes: Mapping[str, str]) -> "RequestTrace":
        """Below the span that `traceparent` names, where that is well formed."""
        root = self.tracer.start_span(
            name, context=_parent(scope), kind=SpanKind.SERVER, attributes=attributes
        )
        trace = RequestTrace(self.tracer, scope, root)
        trace.lead(root)
        return trace


def _received(endpoint: Endpoint, request_id: str) -> dict[str, str]:
    return {
        "http.request.method": "POST",
        "http.route": endpoint.path,
        "tierserve.request_id": request_id,
    }


@dataclass(slots=True)
class RequestTrace:
    """A request's span, and below it one for each step that it goes through, in turn. What it is
    forwarded to, and vLLM, get the `traceparent` of the step, by the headers of its scope."""

    tracer: OpenTelemetryTracer
    scope: Scope
    root: Span
    _step: Span | None = None
    _offer: Span | None = None
    _taken: bool = False

    def enter(self, step: str) -> None:
        """The request has gone on to this step: `admission`, `queue` or `engine`."""
        self._end_step()
        self._step = self._child(step, SpanKind.INTERNAL)
        self.lead(self._step)

    def prepared(self, request: "PreparedRequest") -> None:
        """What it asks for, once the rules have filled it in."""
        payload = request.payload
        self.root.set_attributes(
            {
                "gen_ai.request.max_tokens": request.max_new_tokens,
                "gen_ai.request.choice.count": request.sequences,
                "gen_ai.request.stream": request.streaming,
                **{
                    attribute: value
                    for field, attribute in _ASKED.items()
                    if isinstance(value := payload.get(field), int | float)
                },
            }
        )

    def offer(self) -> None:
        """It is offered to other replicas, while it goes on waiting here."""
        self._offer = self._child("forward", SpanKind.CLIENT)
        self.lead(self._offer)

    def offer_taken(self) -> None:
        """Another replica runs it. An offer that nobody takes leaves no span: at the head of the
        queue a request makes many."""
        self._taken = True

    def offer_ended(self) -> None:
        """Nobody has taken it, or whoever did has answered."""
        if self._offer is not None and self._taken:
            self._offer.end()
        self._offer, self._taken = None, False
        self.lead(self._step or self.root)

    def end(self, status: int, fields: Mapping[str, object]) -> None:
        """However it has ended. `fields` are those of its line in the log."""
        self._end_step()
        self.root.set_attribute("http.response.status_code", status)
        for name, attribute in _OUTCOME.items():
            if isinstance(value := fields.get(name), str | int | float):
                self.root.set_attribute(attribute, value)
        if status >= 500:
            self.root.set_status(StatusCode.ERROR)
        self.root.end()

    def lead(self, span: Span) -> None:
        """Whoever gets the scope's headers is below `span`."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span))
        others = [pair for pair in self.scope["headers"] if pair[0].lower() not in TRACE_HEADERS]
        ours = [(name.encode(), value.encode("latin-1")) for name, value in carrier.items()]
        self.scope["headers"] = [*others, *ours]

    def _child(self, name: str, kind: SpanKind) -> Span:
        return self.tracer.start_span(name, context=set_span_in_context(self.root), kind=kind)

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.end()
            self._step = None


def _parent(scope: Scope) -> Context:
    given: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name.lower() in TRACE_HEADERS:
            given.setdefault(name.decode().lower(), value.decode("latin-1"))
    # Below a context of its own, not one that a server around this application may have set.
    return _PROPAGATOR.extract(given, context=Context())
