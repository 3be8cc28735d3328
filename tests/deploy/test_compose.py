"""deploy/compose.yaml, as far as it can be checked without Docker: what it names is there, what it
sets is known, and what it opens is on this machine only."""

import json
import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml

from serve_app.__main__ import _parser
from serve_app.api.routes import WEB_ROUTES, Callers
from serve_app.config.access import address_of
from serve_app.config.tier import refuse_unknown_variables
from tests.clients.environments import REPOSITORY
from tests.clients.open_webui import read_env

DEPLOY = REPOSITORY / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text()
EXAMPLE = read_env(DEPLOY / ".env.example")
SERVICES = ("tierserve", "open-webui", "prometheus", "grafana")
# `${NAME}`, `${NAME:-default}` and `${NAME:+text}`, the last with others inside.
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?:(:[-+])((?:[^{}]|\$\{[A-Z_]+\})*))?\}")
SECRETS = {"OPEN_WEBUI_KEY", "WEBUI_SECRET_KEY", "GRAFANA_PASSWORD", "HF_TOKEN"}


def interpolated(text: str, **given: str) -> str:
    """As compose does it, for the forms that are used here."""

    def value(match: re.Match[str]) -> str:
        name, form, words = match.groups()
        if form == ":+":
            return interpolated(words, **given) if given.get(name) else ""
        return given.get(name) or (words or "")

    return VARIABLE.sub(value, text).replace("$$", "$")


def composed(**given: str) -> dict[str, Any]:
    return yaml.safe_load(interpolated(TEXT, **given))


def command_of(**given: str) -> list[str]:
    return shlex.split(composed(**given)["services"]["tierserve"]["command"])


def test_the_example_has_every_variable_with_the_default_and_no_secret() -> None:
    defaults: dict[str, str] = {}
    for name, form, words in VARIABLE.findall(TEXT):
        if form == ":-":
            assert defaults.setdefault(name, words) == words, name
    assert set(re.findall(r"\$\{([A-Z_]+)", TEXT)) == set(EXAMPLE)
    for name, default in defaults.items():
        assert EXAMPLE[name] == ("" if name in SECRETS else default), name
    assert {name for name in SECRETS if EXAMPLE[name]} == set()


def test_the_file_with_secrets_is_not_kept() -> None:
    assert "deploy/.env" in (REPOSITORY / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_a_version_a_check_of_its_health_and_a_bound_on_its_log(
    service: str,
) -> None:
    services = composed()["services"]
    assert set(services) == set(SERVICES)
    described = services[service]
    assert re.fullmatch(r".+:v?\d+\.\d+\.\d+(-gpu)?", described["image"])
    assert described["healthcheck"]["test"][0] == "CMD-SHELL"
    assert described["logging"]["options"]["max-size"]
    assert described["restart"] == "unless-stopped"
    assert described.get("profiles", []) == {
        "tierserve": [],
        "open-webui": ["open-webui"],
    }.get(service, ["monitoring"])


def test_nothing_is_open_to_other_machines_unless_the_service_itself_is_opened() -> None:
    services = composed()["services"]
    # Without ports of its own, a container in the host's network has what its process listens on.
    assert all(of["network_mode"] == "host" and "ports" not in of for of in services.values())
    listens = {
        "open-webui": services["open-webui"]["environment"]["HOST"],
        "grafana": services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"],
        "prometheus": address_of(services["prometheus"]["command"][-1].split("=")[1])[0],
        "tierserve": command_of()[command_of().index("--host") + 1],
    }
    assert set(listens.values()) == {"127.0.0.1"}
    assert "--keys" in command_of(TIERSERVE_HOST="0.0.0.0")
    assert "--allow-anonymous" not in TEXT


def test_the_command_is_one_of_tierserves() -> None:
    program, *words = command_of()
    options = _parser().parse_args(words)
    assert program == "tierserve"
    assert (options.host, options.port, options.keys) == ("127.0.0.1", 8000, "")
    assert (options.profile, options.model) == (None, None)
    given = {"TIERSERVE_PROFILE": "single-gpu", "TIERSERVE_MODEL": "org/m", "TIERSERVE_PORT": "81"}
    options = _parser().parse_args(command_of(**given)[1:])
    assert (options.profile, options.model, options.port) == ("single-gpu", "org/m", 81)


def test_the_service_knows_each_variable_that_is_set() -> None:
    refuse_unknown_variables(composed()["services"]["tierserve"]["environment"])


def test_prometheus_reads_the_listener_that_asks_for_no_key() -> None:
    whole = composed(TIERSERVE_STATUS_PORT="7")
    listener = whole["services"]["tierserve"]["environment"]["TIERSERVE_ACCESS__STATUS_LISTENER"]
    assert json.loads(whole["configs"]["targets"]["content"]) == [{"targets": [listener]}]
    config = yaml.safe_load((DEPLOY / "monitoring/prometheus.yml").read_text())
    (source,) = whole["services"]["prometheus"]["configs"]
    relative = source["target"].removeprefix("/etc/prometheus/")
    assert config["scrape_configs"][0]["file_sd_configs"][0]["files"] == [relative]


def test_grafanas_source_is_that_of_the_provisioning_and_its_boards_are_where_that_looks() -> None:
    whole, provisioning = composed(), DEPLOY / "monitoring/provisioning"
    source = yaml.safe_load(whole["configs"]["datasource"]["content"])
    assert source == yaml.safe_load((provisioning / "datasources/tierserve.yaml").read_text())
    boards = yaml.safe_load((provisioning / "dashboards/tierserve.yaml").read_text())
    mounted = [volume.split(":")[1] for volume in whole["services"]["grafana"]["volumes"]]
    assert boards["providers"][0]["options"]["path"] in mounted


def test_what_is_mounted_is_there() -> None:
    whole = composed()
    named: set[str] = set()
    for of in whole["services"].values():
        for volume in of.get("volumes", []):
            source, *_ = volume.split(":")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
                assert volume.endswith(":ro")
            else:
                named.add(source)
        for used in of.get("configs", []):
            assert used["source"] in whole["configs"]
    assert named == set(whole["volumes"])
    assert (DEPLOY / whole["services"]["open-webui"]["env_file"]).exists()


def test_volumes_of_the_service_are_owned_by_the_images_user() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    made = re.search(r"install --directory --owner 1000 --group 100 (.*)", dockerfile)
    assert made is not None
    mounted = {volume.split(":")[1] for volume in composed()["services"]["tierserve"]["volumes"]}
    assert set(made[1].split()) == mounted


def test_the_service_is_healthy_once_both_tiers_answer_and_nobody_needs_a_key_for_that() -> None:
    test = composed()["services"]["tierserve"]["healthcheck"]["test"][1]
    path = test.removeprefix("wget -q -O /dev/null http://127.0.0.1:8000")
    (route,) = (route for route in WEB_ROUTES if route.path == path)
    assert route.callers is Callers.ANYONE
    # The image has it for KubeRay's probes.
    assert "wget" in (DEPLOY / "Dockerfile").read_text()


def test_the_image_is_the_one_that_make_builds() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert composed()["services"]["tierserve"]["image"] == f"tierserve:{version}-gpu"
