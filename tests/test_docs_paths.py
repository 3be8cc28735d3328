"""Every file that docs/architecture.md, the glossary and the decisions name is there."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(REPOSITORY)
    for path in (*REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("docs/adr/*.md"))
)
# Those of vLLM's own source are left out.
NAMED = re.compile(r"`(?!vllm/)((?:[a-z0-9_]+/)+[a-z0-9_]+\.py)`")
# Below what a page's paths stand: itself, the package, its parts, and the tests.
ROOTS = ("", "serve_app", "serve_app/engine", "loadtest", "tests", "tests/api", "deploy/monitoring")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_file_that_is_named_is_there(page: Path) -> None:
    named = set(NAMED.findall((REPOSITORY / page).read_text(encoding="utf-8")))
    missing = {
        name for name in named if not any((REPOSITORY / root / name).exists() for root in ROOTS)
    }
    assert missing == set()


def test_the_six_places_to_change_are_named() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Where do I change\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    paths = [row.split("`")[1] for row in rows]
    assert len(paths) == 6
    assert [path for path in paths if not (REPOSITORY / "serve_app" / path).exists()] == []
