"""axe-core, which looks for what keeps people from using a page."""

from typing import Any

from serve_app.api.page import DIST

AXE = DIST.parent / "node_modules" / "axe-core" / "axe.min.js"
RUN = "axe.run(document)"


def missing() -> str | None:
    """Why it cannot look here."""
    return None if AXE.is_file() else "axe-core is not installed (make setup, with npm's registry)"


def said(result: Any) -> list[str]:
    """What it has to say of the page as it is."""
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in result["violations"]
        for node in each["nodes"]
    ]
