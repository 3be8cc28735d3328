"""Every overlay keeps every rule, and every rule finds its mutants."""

import re
from collections.abc import Callable

import pytest

from tests.k8s.manifests import OVERLAYS, REPO, Manifests
from tests.k8s.mutants import MUTANTS, SCHEMA_MUTANTS, Mutant
from tests.k8s.rules import RULES

# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)
Rendered = Callable[[str], Manifests]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("rule", RULES)
def test_overlay_keeps_rule(rendered: Rendered, overlay: str, rule: str) -> None:
    assert list(RULES[rule](rendered(overlay))) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.rule}: {m.fault}")
def test_rule_finds_mutant(rendered: Rendered, mutant: Mutant) -> None:
    original = rendered(mutant.overlay)
    assert list(RULES[mutant.rule](original)) == []
    assert list(RULES[mutant.rule](mutant.of(original))) != []


def test_every_rule_has_a_mutant() -> None:
    assert {mutant.rule for mutant in MUTANTS} == RULES.keys()


def test_every_overlay_is_checked() -> None:
    folders = {path.name for path in (REPO / "k8s" / "overlays").iterdir() if path.is_dir()}
    assert folders == set(OVERLAYS)


def test_every_trap_of_the_page_has_a_mutant() -> None:
    page = (REPO / "docs" / "kubernetes.md").read_text()
    traps = set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE))
    faults = " ".join(mutant.fault for mutant in (*MUTANTS, *SCHEMA_MUTANTS))
    assert traps == set(re.findall(r"trap (\d+)", faults))
