"""List every fault that `make test-k8s` makes on purpose, by the rule that must find it."""

from rich.console import Console
from rich.table import Table

from tests.k8s.mutants import MUTANTS


def main() -> None:
    table = Table("rule", "fault", "overlay", title=f"{len(MUTANTS)} mutants")
    for mutant in sorted(MUTANTS, key=lambda each: each.rule):
        table.add_row(mutant.rule, mutant.fault, mutant.overlay)
    Console().print(table)


if __name__ == "__main__":
    main()
