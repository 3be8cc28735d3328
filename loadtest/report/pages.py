"""HTML pages that need no other file, and the tables that commands write into the docs."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtest.errors import UserError
from loadtest.report import formatting
from loadtest.report.results_file import REPOSITORY

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "time": formatting.short_time,
        "number": formatting.number,
        "percent": formatting.percent,
        "counts": formatting.counts,
    }
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)


def inline(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def write_section(name: str, body: str, page: Path | None = None) -> Path:
    """Put `body` between the markers of that name, in `page` or in whichever of README.md and
    docs/*.md has them; that page. Raises UserError."""
    page = page or page_of(name)
    text = page.read_text(encoding="utf-8")
    page.write_text(between_markers(text, name, body), encoding="utf-8")
    return page


def page_of(name: str) -> Path:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    for page in pages:
        if f"<!-- {name}:begin -->" in page.read_text(encoding="utf-8"):
            return page
    raise UserError(f"Neither README.md nor docs/*.md has the markers of {name!r}.")


def between_markers(text: str, name: str, body: str) -> str:
    """The text with `body` between the markers `<!-- name:begin -->` and `<!-- name:end -->`.
    Raises UserError."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begins, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends):
        raise UserError(f"put {begin} and {end} where it belongs")
    return f"{before}{begin}\n{body}\n{end}{after}"
