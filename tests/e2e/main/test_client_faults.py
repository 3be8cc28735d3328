"""Never a 500 for a client's fault: wrong bodies on every generating route and beside them."""

import json

import httpx
import pytest

from tests.e2e.main.wrong_bodies import ROUTES
from tests.e2e.site import Site

ANSWERING_ONLY = ("count", "token")
CASES = [
    pytest.param(path, stream, id=f"{path}-{'stream' if stream else 'whole'}")
    for path in ROUTES
    for stream in (False, True)
    if not (stream and any(word in path for word in ANSWERING_ONLY))
]


@pytest.mark.parametrize(("path", "stream"), CASES)
def test_no_body_makes_a_server_error(site: Site, path: str, stream: bool) -> None:
    base, changes = ROUTES[path]
    wrong: list[str] = []
    for change in changes:
        body = {"model": "chat", **base, **({"stream": True} if stream else {}), **change}
        answer = site.http.post(path, content=json.dumps(body))
        wrong += [f"{change}: {fault}" for fault in faults_of(answer)]
    assert wrong == []
    assert site.get("/readyz").status_code == 200


def faults_of(answer: httpx.Response) -> list[str]:
    """What is not as promised for a client's fault, or for a value that is accepted after all."""
    if answer.status_code >= 500:
        return [f"{answer.status_code} {answer.text[:200]}"]
    if answer.status_code < 400:
        event = next((line for line in answer.text.splitlines() if '"server_error"' in line), None)
        return [] if event is None else [event[:200]]
    try:
        error = answer.json()["error"]
        missing = {"message", "type", "param", "code"} - set(error)
    except (ValueError, KeyError, TypeError):
        return [f"{answer.status_code} is no error in OpenAI's form: {answer.text[:200]}"]
    return [f"{answer.status_code} without {missing}"] if missing or not error["message"] else []
