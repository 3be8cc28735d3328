"""Open WebUI itself, started with deploy/open-webui/open-webui.env and used by its own HTTP
interface and, where Chromium and Node.js are at hand, by its page."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.clients.environments import REPOSITORY, Environment, Missing, prepare
from tests.clients.servers import running

PORT = 8081
ADDRESS = f"http://127.0.0.1:{PORT}"
ENV_FILE = REPOSITORY / "deploy/open-webui/open-webui.env"
PAGE = Path(__file__).with_name("page.mjs")
PAGE_WITHIN_S = 120
# It may take the tier's half second to report, and the engine's step.
STOPS_WITHIN_S = 5
QUESTION = (
    "Vera has 22 coins. Jon gives Vera 52 more. Then Vera loses 20 of them. "
    "How many coins does Vera have now?"
)
Step = Callable[[], None]


def read_env(file: Path = ENV_FILE) -> dict[str, str]:
    """As compose reads it."""
    lines = (line for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def steps(
    environment: Environment, service: str, screenshot: Path | None
) -> Iterator[tuple[str, str, float]]:
    """What was tried, what was wrong with it or nothing, and how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        env = read_env() | {
            "OPENAI_API_BASE_URLS": f"{service}/v1",
            "DATA_DIR": folder,
            "WEBUI_SECRET_KEY": "of a trial",
        }
        program = [environment.program("open-webui"), "serve"]
        command = [*program, "--host", "127.0.0.1", "--port", str(PORT)]
        began_s = time.monotonic()
        try:
            with running(command, env, f"{ADDRESS}/health", Path(folder)):
                yield "start", "", time.monotonic() - began_s
                trial = _Trial(environment, service, screenshot)
                for title, step in trial.steps():
                    began_s = time.monotonic()
                    yield title, _fault(step), time.monotonic() - began_s
        except AssertionError as error:
            yield "start", str(error), time.monotonic() - began_s


def _fault(step: Step) -> str:
    try:
        step()
    except (AssertionError, Missing, httpx.HTTPError, KeyError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


class _Trial:
    """An administrator and a user at one Open WebUI."""

    def __init__(self, environment: Environment, service: str, screenshot: Path | None) -> None:
        self.service = service
        self.environment = environment
        self.screenshot = screenshot
        self.password = "Of-a-trial-1"
        self.client = httpx.Client(base_url=ADDRESS, timeout=120)

    def steps(self) -> Iterator[tuple[str, Step]]:
        yield "every setting of the file is one of Open WebUI's", self.known_settings
        yield "first sign-up is the administrator", self.sign_up
        yield "both tiers are listed, for a user too", self.list_models
        yield "a streamed answer with its thought", self.stream
        yield "a title comes from chat, without a thought", self.title
        yield "leaving a stream ends it in the engine", self.abort
        yield "the page folds the thought", self.page

    def known_settings(self) -> None:
        """One that a new release does not know any more would silently do nothing."""
        sources = list(self.environment.folder.glob("lib/python3*/site-packages/open_webui/*.py"))
        text = "".join(source.read_text() for source in sources)
        unknown = [name for name in read_env() if f"'{name}'" not in text]
        assert not unknown, unknown

    def sign_up(self) -> None:
        account = {"name": "a", "email": "a@example.com", "password": self.password}
        answer = self.client.post("/api/v1/auths/signup", json=account).raise_for_status().json()
        assert answer["role"] == "admin", answer
        self.client.headers["authorization"] = f"Bearer {answer['token']}"

    def list_models(self) -> None:
        account = {"name": "u", "email": "u@example.com", "password": self.password, "role": "user"}
        user = self.client.post("/api/v1/auths/add", json=account).raise_for_status().json()
        for token in (None, user["token"]):
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            listed = self.client.get("/api/models", headers=headers).raise_for_status().json()
            names = [model["id"] for model in listed["data"]]
            assert names == ["chat", "reasoning"], names

    def stream(self) -> None:
        deltas = [delta for delta in self._deltas({"temperature": 0}) if delta]
        thought = "".join(delta.get("reasoning_content") or "" for delta in deltas)
        answer = "".join(delta.get("content") or "" for delta in deltas)
        assert thought, answer
        assert answer, thought
        assert "</think>" not in answer, answer

    def title(self) -> None:
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "54"}]
        body = {"model": "reasoning", "messages": messages}
        answer = self.client.post("/api/v1/tasks/title/completions", json=body).raise_for_status()
        reported = answer.json()
        assert reported["model"] == "chat", reported["model"]
        details = reported["usage"]["completion_tokens_details"]
        assert details["reasoning_tokens"] == 0, details

    def abort(self) -> None:
        """`min_tokens` keeps it running for longer than the trial looks."""
        for number, _ in enumerate(self._deltas({"min_tokens": 2000})):
            if number == 5:
                self._wait_for(running=True)
                break
        self._wait_for(running=False)

    def page(self) -> None:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            raise Missing("no chromium on this machine (Debian: apt install chromium)")
        node = prepare("openai-node")
        # A module finds its packages from where it lies.
        script = shutil.copy(PAGE, node.folder)
        token = self.client.headers["authorization"].removeprefix("Bearer ")
        where = [str(self.screenshot)] if self.screenshot else []
        ended = subprocess.run(
            ["node", script, chromium, ADDRESS, token, QUESTION, *where],
            capture_output=True, text=True, timeout=PAGE_WITHIN_S, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, (ended.stdout + ended.stderr)[-800:]

    def _deltas(self, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": "reasoning", "stream": True, "messages": messages, **extra}
        with self.client.stream("POST", "/api/chat/completions", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                data = line.removeprefix("data: ")
                if data.startswith("{") and (choices := json.loads(data).get("choices")):
                    yield choices[0]["delta"]

    def _wait_for(self, *, running: bool) -> None:
        give_up_s = time.monotonic() + STOPS_WITHIN_S
        while self._runs() != running:
            assert time.monotonic() < give_up_s, f"running is {not running}"
            time.sleep(0.1)

    def _runs(self) -> bool:
        tiers = httpx.get(f"{self.service}/api/tiers", timeout=30).json()["tiers"]
        return any(tier["running"] for tier in tiers if tier["tier"] == "reasoning")
