"""A local service is never open to other machines unless somebody has said so."""

from typing import Any

import pytest

from serve_app.local.exposure import (
    AccessChoice,
    Exposure,
    OpenServiceError,
    exposure_of,
    is_loopback,
)


def a_config(host: str | None = None, **access: str) -> dict[str, Any]:
    options = {} if host is None else {"http_options": {"host": host}}
    return {**options, "applications": [{"name": "chat", "args": {"access": access}}]}


def exposed(
    choice: AccessChoice, config: dict[str, Any], profile: str = "mine.yaml", **variables: str
) -> Exposure:
    return exposure_of(choice, profile, config, variables)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "gpu.example.org"])
def test_an_address_beyond_this_machine_is_refused_with_both_ways_out(host: str) -> None:
    for choice, config in (
        (AccessChoice(host), a_config("127.0.0.1")),
        (AccessChoice(), a_config(host)),
    ):
        with pytest.raises(OpenServiceError, match=r"--keys.*--allow-anonymous"):
            exposed(choice, config)
    assert exposed(AccessChoice(host, keys="/k"), a_config()).host == host
    assert exposed(AccessChoice(host, allow_anonymous=True), a_config()).host == host


def test_a_config_without_a_host_listens_everywhere_and_is_refused_too() -> None:
    with pytest.raises(OpenServiceError):
        exposed(AccessChoice(), a_config())


def test_a_profile_of_ours_is_narrowed_instead_and_says_so() -> None:
    narrowed = exposed(AccessChoice(), a_config("0.0.0.0"), "t4")
    assert (narrowed.host, narrowed.narrowed) == ("127.0.0.1", True)
    with pytest.raises(OpenServiceError):
        exposed(AccessChoice("0.0.0.0"), a_config("0.0.0.0"), "t4")
    opened = exposed(AccessChoice(keys="/k"), a_config("0.0.0.0"), "t4")
    assert (opened.host, opened.narrowed) == ("0.0.0.0", False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_this_machine_alone_nothing_is_asked_for(host: str) -> None:
    assert exposed(AccessChoice(host), a_config()) == Exposure(host)


def test_keys_are_on_by_option_environment_or_config() -> None:
    for choice, config, variables in (
        (AccessChoice(keys="/k"), a_config("0.0.0.0"), {}),
        (AccessChoice(), a_config("0.0.0.0"), {"TIERSERVE_ACCESS__DATABASE": "/k"}),
        (AccessChoice(), a_config("0.0.0.0", database="/k"), {}),
    ):
        found = exposed(choice, config, **variables)
        assert (found.host, found.database) == ("0.0.0.0", "/k")
        assert found.environment["TIERSERVE_ACCESS__DATABASE"] == "/k"
        assert found.status_address is not None
        assert found.status_address.startswith("127.0.0.1:")


def test_a_path_is_absolute_and_a_url_stays_as_it_is() -> None:
    assert (
        exposed(AccessChoice(keys="k"), a_config())
        .environment["TIERSERVE_ACCESS__DATABASE"]
        .startswith("/")
    )
    url = "postgresql://u:p@h/db"
    assert exposed(AccessChoice(keys=url), a_config()).database == url


def test_anonymous_requests_beside_keys_are_passed_on_to_the_replicas() -> None:
    found = exposed(AccessChoice(keys="/k", allow_anonymous=True), a_config())
    assert found.environment["TIERSERVE_ACCESS__ALLOW_ANONYMOUS"] == "true"


def test_a_listener_that_is_configured_stays() -> None:
    own = a_config(status_listener="127.0.0.1:9464")
    assert exposed(AccessChoice(keys="/k"), own).status_address == "127.0.0.1:9464"


@pytest.mark.parametrize("host", ["", "example.org", "10.0.0.1", "0.0.0.0", "::"])
def test_whatever_is_not_surely_this_machine_is_not_taken_for_it(host: str) -> None:
    assert not is_loopback(host)
