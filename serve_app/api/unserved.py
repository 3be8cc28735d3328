"""What other servers have at this base URL and this one does not: the answer says what is here."""

from serve_app.errors import RequestError

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
