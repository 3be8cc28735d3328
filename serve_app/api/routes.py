"""Every route of the service: what it does, how large its body may be, what work it may cause and
where, and who may call it. What is not listed here is refused, whatever vLLM's application has.

docs/routes.md is written from this table (`python -m serve_app routes`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from serve_app.errors import RequestError


# Each is made once, here, so identity tells them apart.
@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A generating route. `limit_fields`: the names under which its schema limits new tokens,
    the first being the one that the tier's default is written to (None: keep the schema's).
    `ending` is a key of the last event of an answer; a quote inside a JSON string is
    escaped."""

    name: str
    path: str
    limit_fields: tuple[str, ...]
    default_limit_field: str | None
    reasoning_twice: bool = False
    anthropic: bool = False
    ending: bytes | None = None


CHAT_COMPLETIONS = Endpoint(
    "chat.completions",
    "/v1/chat/completions",
    ("max_completion_tokens", "max_tokens"),
    "max_completion_tokens",
    reasoning_twice=True,
    ending=b'"finish_reason":"',
)
COMPLETIONS = Endpoint(
    "completions",
    "/v1/completions",
    ("max_tokens",),
    # The legacy endpoint's own default is 16 tokens, and unchanged clients rely on it.
    None,
    ending=b'"finish_reason":"',
)
RESPONSES = Endpoint(
    "responses",
    "/v1/responses",
    ("max_output_tokens",),
    "max_output_tokens",
    ending=b'"type":"response.completed"',
)
MESSAGES = Endpoint(
    "messages",
    "/v1/messages",
    ("max_tokens",),
    "max_tokens",
    anthropic=True,
    # Its `stop_reason` is null where vLLM has no word of Anthropic's for it.
    ending=b'"type":"message_delta"',
)

GENERATING = {
    endpoint.path: endpoint for endpoint in (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, MESSAGES)
}


def generating_endpoint(path: str) -> Endpoint | None:
    """The endpoint at a path below the tier's prefix; the bare prefix is a chat completion."""
    if path in ("", "/"):
        return CHAT_COMPLETIONS
    return GENERATING.get(path)


# A client that has lost its connection gets the rest there.
STREAMS_PATH = "/v1/streams/{id}"
_SLASHES = re.compile("/{2,}")


class Work(Enum):
    """What a request may cause, and what bounds it."""

    ENGINE = "tokens of the engine, behind the tier's gate"
    TOKENIZER = "the tokenizer's thread, one request of a replica at a time"
    REPLICAS = "one question to the replicas every quarter second, shared by all who ask"
    LOOP = "none to speak of"


class Body(Enum):
    """Which limit a request's body has."""

    NONE = "none is read"
    PROMPT = "`max_body_bytes`, and prompts that the context could hold"
    TOKENIZER = "`max_body_bytes`, and prompts of four contexts"


class Callers(Enum):
    """Whom a route is for, where keys are on. Without keys, whoever reaches the port is a user."""

    ANYONE = "anyone, without a key"
    USERS = "users: a key"
    OPERATORS = "operators: an admin key, or the status listener"


@dataclass(frozen=True, slots=True)
class Route:
    """`path` is below `/api/<tier>` for a tier's route; `{name}` stands for one segment. `also` are
    paths that mean the same: clients differ in whether `/v1` belongs to their base URL."""

    method: str
    path: str
    does: str
    work: Work
    body: Body = Body.NONE
    callers: Callers = Callers.USERS
    also: tuple[str, ...] = ()

    def matches(self, method: str, path: str) -> bool:
        """Whether this is the route of a request."""
        if method != self.method:
            return False
        if "{" not in self.path:
            return path == self.path
        expected, given = self.path.split("/"), path.split("/")
        return len(expected) == len(given) and all(
            want == got or (want.startswith("{") and got)
            for want, got in zip(expected, given, strict=True)
        )


def _other_bases(path: str) -> tuple[str, ...]:
    """The path of a client whose base URL lacks the `/v1`, and of one who has it once too often."""
    own = (path.removeprefix("/v1"),) if path.startswith("/v1/") else ()
    return *own, f"/v1{path}"


def _generating(path: str, does: str) -> Route:
    return Route("POST", path, does, Work.ENGINE, Body.PROMPT, also=_other_bases(path))


def _models(path: str, does: str, work: Work) -> Route:
    return Route("GET", path, does, work, also=_other_bases(path))


def _open(path: str, does: str, work: Work = Work.LOOP, also: tuple[str, ...] = ()) -> Route:
    return Route("GET", path, does, work, callers=Callers.ANYONE, also=also)


def _status(path: str, does: str) -> Route:
    return Route("GET", path, does, Work.REPLICAS, callers=Callers.OPERATORS)


def _tokenizing(path: str, does: str) -> Route:
    return Route("POST", path, does, Work.TOKENIZER, Body.TOKENIZER, also=_other_bases(path))


TIER_ROUTES = (
    _generating("", "a chat completion, or the short form"),
    _generating("/v1/chat/completions", "OpenAI's chat completions"),
    _generating("/v1/completions", "OpenAI's legacy completions"),
    _generating("/v1/responses", "OpenAI's responses"),
    _generating("/v1/messages", "Anthropic's messages"),
    _models("/v1/models", "the tier as a model", Work.LOOP),
    _models(STREAMS_PATH, "a resumable stream of the tier's, as at the root", Work.LOOP),
    _open("/version", "vLLM's version"),
    _open("/health", "whether a replica's engine lives"),
    _tokenizing("/tokenize", "token ids of a text or chat"),
    _tokenizing("/detokenize", "the text of token ids"),
    _tokenizing("/v1/messages/count_tokens", "the length of Anthropic's messages"),
)
_OF_THE_NAMED_TIER = "the same, of the tier that `model` names"

WEB_ROUTES = (
    _open("/", "the page for browsers, for others what is served here"),
    _open("/assets/{name}", "the page's scripts and styles"),
    Route("GET", "/openapi.json", "this interface as OpenAPI", Work.REPLICAS),
    _open("/healthz", "alive"),
    _open("/readyz", "every tier can answer", Work.REPLICAS),
    _status("/api/tiers", "what each tier is, and how it is now"),
    _status("/api/tiers/events", "the same each second, as server-sent events"),
    _status("/api/history", "how each tier was in the last hour"),
    Route("GET", "/api/usage", "what a key has used; an admin key sees all", Work.LOOP),
    _status("/metrics", "metrics of every replica, for Prometheus; no Ingress forwards it"),
    _open("/health", "whether any tier can answer", Work.REPLICAS, also=("/ping",)),
    _open("/version", "the versions of tierserve and vLLM"),
    _open("/favicon.ico", "the icon that browsers ask for"),
    _models("/v1/models", "the tiers as models, with their limits", Work.REPLICAS),
    _models("/v1/models/{model}", "one of them", Work.REPLICAS),
    *(_generating(path, _OF_THE_NAMED_TIER) for path in GENERATING),
    _models(STREAMS_PATH, "a resumable stream, behind the event that the client has", Work.LOOP),
    *(
        _tokenizing(path, _OF_THE_NAMED_TIER)
        for path in ("/tokenize", "/detokenize", "/v1/messages/count_tokens")
    ),
)


def meant_path(path: str, routes: Iterable[Route]) -> str:
    """The path of the table that a client means: slashes are not doubled, and other base URLs lead
    to the same routes. A path that means nothing stays as it is, but for its slashes."""
    path = _SLASHES.sub("/", path)
    for route in routes:
        for other in route.also:
            if path == other:
                return route.path
            parameter = other.rfind("/{") + 1
            if parameter and path.startswith(other[:parameter]):
                return route.path[: route.path.rfind("/{") + 1] + path[parameter:]
    return path


def tier_route(method: str, path: str) -> Route | None:
    """The route of a request below a tier's prefix."""
    path = "" if path == "/" else path
    return next((route for route in TIER_ROUTES if route.matches(method, path)), None)


def web_callers(method: str, path: str) -> Callers:
    """Whom a path of the web application is for; what the table does not have is for users, so that
    no route is open by mistake."""
    method = "GET" if method == "HEAD" else method
    found = next((route for route in WEB_ROUTES if route.matches(method, path)), None)
    return Callers.USERS if found is None else found.callers


def tier_methods(path: str) -> str:
    """The methods that a tier's path takes, as `Allow` has them; empty where there is no path."""
    return ", ".join(method for method in ("GET", "POST") if tier_route(method, path))


def routes_page() -> str:
    """docs/routes.md."""
    return "\n".join(
        [
            "# Routes",
            "",
            "Written by `python -m serve_app routes` from `serve_app/api/routes.py`. A request to "
            "any other path gets 404, to another method of these 405. Doubled slashes count as "
            "one. A browser's preflight request (`OPTIONS`) is answered at every path if "
            "`cors_origins` is set. What OpenAI has and is not served here, such as "
            "`/v1/embeddings`, gets a 404 that says what is.",
            "",
            *_table("`/api/chat` and `/api/reasoning`, each with", TIER_ROUTES),
            "",
            *_table("At the root", WEB_ROUTES),
            "",
        ]
    )


def _table(title: str, routes: tuple[Route, ...]) -> list[str]:
    rows = [
        f"| `{route.method} {route.path or '(the prefix itself)'}`{_also(route)} | {route.does} "
        f"| {route.body.value} | {route.work.value} | {route.callers.value} |"
        for route in routes
    ]
    return [
        f"## {title}",
        "",
        "| route | does | body | work | for |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _also(route: Route) -> str:
    return "".join(f", `{path}`" for path in route.also)


# Families of OpenAI's interface and of servers like it, by their first segment.
_FAMILIES = {
    **dict.fromkeys(("embeddings", "embed", "pooling"), "Embeddings are"),
    **dict.fromkeys(("rerank", "score"), "Reranking is"),
    "classify": "Classification is",
    "moderations": "Moderations are",
    **dict.fromkeys(("audio", "realtime"), "Speech is"),
    "images": "Images are",
    "videos": "Videos are",
    **dict.fromkeys(("files", "uploads"), "Files are"),
    "vector_stores": "Vector stores are",
    "batches": "Batches are",
    "fine_tuning": "Fine-tuning is",
    **dict.fromkeys(("assistants", "threads", "conversations"), "Stored conversations are"),
    "evals": "Evaluations are",
}
_VERSIONS = frozenset({"v1", "v2"})
SERVED = (
    "This service generates text: POST /v1/chat/completions, /v1/completions, /v1/responses or "
    "/v1/messages, with a `model` of GET /v1/models."
)
_STORED = (
    "No response is kept, so none can be fetched, continued or cancelled. Send the whole "
    "conversation in `input`."
)


def no_route(method: str, path: str, shown: str) -> RequestError:
    """The 404 of a path below the service's root or a tier's prefix; `shown` is what of it the
    message repeats."""
    segments = [segment for segment in path.split("/") if segment]
    while segments and segments[0] in _VERSIONS:
        del segments[0]
    family = segments[0] if segments else ""
    if family in _FAMILIES:
        message = f"{_FAMILIES[family]} not served here: there is no {method} {shown}. {SERVED}"
        return RequestError(404, message, code="not_served")
    if family == "responses" and len(segments) > 1:
        message = f"There is no {method} {shown}. {_STORED}"
        return RequestError(404, message, code="response_not_found")
    return RequestError(404, f"There is no {method} {shown}. {SERVED}", code="not_found")
