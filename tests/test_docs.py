"""README and docs lead where they say, name what exists, and stay as short as they promise."""

import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(REPOSITORY)
    for path in (
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("loadtest/**/*.md"),
        *REPOSITORY.glob("tests/**/*.md"),
    )
)
CODE = re.compile(r"^( *)(`{3,}).*?^\1\2`*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
ELSEWHERE = ("http://", "https://", "mailto:")
MAKE = re.compile(r"(?:^|`)make ([a-z][a-z0-9-]+)", re.MULTILINE)
MAX_README_LINES = 150


@cache
def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return CODE.sub("", (REPOSITORY / page).read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The headings as GitHub links to them."""
    headings = (heading.replace("`", "").lower() for heading in HEADING.findall(prose(page)))
    return frozenset(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings)


def broken(page: Path, target: str) -> bool:
    file, _, anchor = target.partition("#")
    there = (REPOSITORY / page).parent / file if file else REPOSITORY / page
    if not there.exists():
        return True
    return bool(anchor) and anchor not in anchors(there.resolve().relative_to(REPOSITORY))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_link_within_the_repository_leads_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(prose(page)) if not link.startswith(ELSEWHERE)]
    assert [target for target in targets if broken(page, target)] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_make_target_that_is_named_exists(page: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    named = set(MAKE.findall((REPOSITORY / page).read_text(encoding="utf-8")))
    assert named - targets == set()


def test_every_page_of_docs_is_linked_from_another() -> None:
    linked = {
        ((REPOSITORY / page).parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in LINK.findall(prose(page))
        if not target.startswith(ELSEWHERE)
    }
    pages = {page for page in REPOSITORY.glob("docs/*.md") if page not in linked}
    assert pages == set()


def test_readme_is_read_to_its_end() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES
