"""Overlays with one fault each, and the rule that must find it."""

from tests.k8s.mutants.access import NETWORK_MUTANTS, SECURITY_MUTANTS
from tests.k8s.mutants.lifetime import LIFETIME_MUTANTS
from tests.k8s.mutants.mutant import Mutant
from tests.k8s.mutants.placement import PLACEMENT_MUTANTS, SERVE_MUTANTS
from tests.k8s.mutants.refused import API_SERVER_MUTANTS, OPERATOR_MUTANTS

# Those that rules of our own must find, and those that need the schemas.
MUTANTS: tuple[Mutant, ...] = (
    *SERVE_MUTANTS,
    *PLACEMENT_MUTANTS,
    *LIFETIME_MUTANTS,
    *SECURITY_MUTANTS,
    *NETWORK_MUTANTS,
    *OPERATOR_MUTANTS,
)
SCHEMA_MUTANTS: tuple[Mutant, ...] = API_SERVER_MUTANTS
