"""The cluster of this folder: keys are on, chat has two replicas of the fake engine, and reasoning
one of vLLM with micro-r1."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from serve_app.access.credentials import load_pepper
from serve_app.access.database import Database, open_database
from serve_app.access.key_store import KeyStore
from serve_app.access.usage import read_usage
from serve_app.core.access.access_key import AccessKey, KeyLimits
from serve_app.core.tiers import Tier
from serve_app.engine.models.model_dir import MICRO_MODEL
from serve_app.local.cluster import LocalCluster
from serve_app.local.ports import free_ports
from serve_app.local.profiles import load_profile
from tests.e2e.site import Site, site_of, wait_for

START_LIMIT_S = 300.0
# Changes of keys are live within this time; a busy machine may take longer to answer at all.
LIVE_WITHIN_S = 2.0
PROMPT = "Say something."


def keys_config() -> dict[str, Any]:
    """deploy/local-cpu.yaml with chat on the fake engine, so that the load is the edge's alone."""
    config = load_profile("local-cpu")
    for app in config["applications"]:
        if app["name"] == Tier.REASONING:
            app["args"]["model"] = MICRO_MODEL
        if app["name"] != Tier.CHAT:
            continue
        app["args"]["engine"] = {"fake": {"start_s": 0.1, "speed": 48.0}}
        (deployment,) = app["deployments"]
        deployment["user_config"] = {
            "max_new_tokens": 1000,
            "admission": {
                "max_running_sequences": 64,
                "max_queued_requests": 128,
                "max_wait_s": 240,
                "lend_share": 0,
            },
        }
        deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    return config


@dataclass(frozen=True)
class KeySite:
    """A service with keys. `store` writes as `tierserve keys` does."""

    site: Site
    database: Database
    store: KeyStore

    def add(self, name: str, *, admin: bool = False, **more: Any) -> str:
        """A new key, once every replica knows it."""
        limits = {field: more.pop(field) for field in list(more) if field.startswith(("max", "re"))}
        limits |= {field: more.pop(field) for field in list(more) if field.startswith("tokens")}
        key = AccessKey(name, admin=admin, limits=KeyLimits(**limits), **more)
        secret = self.store.add(key).reveal()
        wait_for(lambda: self.known_everywhere(secret), f"the key {name} to be known")
        return secret

    def known_everywhere(self, secret: str) -> bool:
        """Whether each replica takes the key."""
        return 401 not in self.statuses_everywhere(secret)

    def statuses_everywhere(self, secret: str) -> set[int]:
        """Asked often enough that both of chat's replicas have answered."""
        return {self.ask(secret, "/v1/models", tier).status_code for tier in (*TIERS, *7 * CHAT)}

    def ask(self, key: str | None, path: str, tier: str = "") -> httpx.Response:
        return self.site.http.get(f"{tier}{path}", headers=headers(key))

    def chat(self, key: str | None, tokens: int = 10, **more: Any) -> httpx.Response:
        body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, **more}
        return self.site.http.post("/api/chat", json=body, headers=headers(key))

    def burst(self, key: str, clients: int, tokens: int) -> list[httpx.Response]:
        """All at once, each on a connection of its own."""
        with ThreadPoolExecutor(clients) as threads:
            return list(threads.map(lambda _: self._alone(key, tokens), range(clients)))

    def _alone(self, key: str, tokens: int) -> httpx.Response:
        body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}
        with httpx.Client(base_url=self.site.url, timeout=120, verify=False) as http:
            return http.post("/api/chat", json=body, headers=headers(key))

    def spent(self, key: str) -> int:
        """Tokens, as the ledger has counted them."""
        return sum(
            row.prompt_tokens + row.reasoning_tokens + row.answer_tokens
            for row in read_usage(self.database, key=key)
        )

    @property
    def status_url(self) -> str:
        return self.site.cluster.status_url


CHAT = ["/api/chat"]
TIERS = [*CHAT, "/api/reasoning", ""]


def headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def total_tokens(answers: list[httpx.Response]) -> int:
    return sum(json.loads(a.text)["usage"]["total_tokens"] for a in answers if a.status_code == 200)


@pytest.fixture(scope="package")
def key_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeySite]:
    path = tmp_path_factory.mktemp("keys") / "keys.sqlite"
    listener = f"127.0.0.1:{free_ports(1)[0]}"
    database = open_database(str(path), create=True)
    store = KeyStore(database, load_pepper(database.address, create=True))
    variables = {
        "TIERSERVE_ACCESS__DATABASE": str(path),
        "TIERSERVE_ACCESS__STATUS_LISTENER": listener,
    }
    with LocalCluster(environment=variables, status_address=listener) as cluster:
        cluster.deploy(keys_config(), timeout_s=START_LIMIT_S)
        with site_of(cluster) as site:
            yield KeySite(site, database, store)
    database.close()
