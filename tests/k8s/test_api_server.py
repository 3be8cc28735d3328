"""What the API server would say to every overlay, and to mutants that it refuses."""

from collections.abc import Callable
from functools import cache

import pytest

pytest.importorskip("kubernetes_validate", reason="the extra k8s is not installed")
pytest.importorskip("celpy", reason="the extra k8s is not installed")

import kubernetes_validate

from tests.k8s import api_server, crd_schema
from tests.k8s.manifests import OVERLAYS, Manifests
from tests.k8s.mutants import SCHEMA_MUTANTS, Mutant

# The library reads megabytes anew for each object.
_read_once = cache(kubernetes_validate.utils.schema_contents)
Rendered = Callable[[str], Manifests]
with_crds = pytest.mark.skipif(not crd_schema.available(), reason=crd_schema.MISSING)


@pytest.fixture(autouse=True)
def schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", _read_once)


@with_crds
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_crd_takes_the_rayservice(rendered: Rendered, overlay: str) -> None:
    assert list(api_server.crd_takes_the_rayservice(rendered(overlay))) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_schemas_take_the_rest(rendered: Rendered, overlay: str) -> None:
    assert list(api_server.schemas_take_the_rest(rendered(overlay))) == []


@pytest.mark.parametrize("mutant", SCHEMA_MUTANTS, ids=lambda m: f"{m.rule}: {m.fault}")
def test_api_server_refuses_mutant(rendered: Rendered, mutant: Mutant) -> None:
    if mutant.rule.startswith("crd") and not crd_schema.available():
        pytest.skip(crd_schema.MISSING)
    rule = getattr(api_server, mutant.rule)
    assert list(rule(mutant.of(rendered(mutant.overlay)))) != []


@with_crds
def test_defaults_are_filled_in(rendered: Rendered) -> None:
    rayservice = rendered("mixed").copy().rayservice
    group = rayservice["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert "numOfHosts" not in group
    assert list(crd_schema.faults(crd_schema.load_schema(), rayservice)) == []
    assert (group["numOfHosts"], group["maxReplicas"]) == (1, 2)
