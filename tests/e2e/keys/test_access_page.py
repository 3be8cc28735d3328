"""docs/access.md is followed as it stands: what a reader types, in order, in one shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.keys.conftest import KeySite

REPOSITORY = Path(__file__).resolve().parents[3]
ADDRESS = "http://127.0.0.1:8000"
# Its language, and what it has.
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def test_a_team_has_its_keys_after_what_the_page_says(key_site: KeySite) -> None:
    page = (REPOSITORY / "docs" / "access.md").read_text(encoding="utf-8")
    found = BLOCK.findall(page)
    start, *blocks = (text for language, text in found if language == "bash")
    assert start == "make serve KEYS=1 MODEL=micro-r1\n"
    (shown,) = (text for language, text in found if not language)

    # Whoever reads on takes longer than a change of keys, which the page gives two seconds.
    typed = "sleep 2\n".join(blocks).replace(ADDRESS, key_site.site.url)
    folder = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", typed],
        cwd=REPOSITORY,
        env=os.environ
        | {
            "TIERSERVE_KEYS": str(key_site.database.address),
            "PATH": f"{folder}:{os.environ['PATH']}",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in shown.splitlines():
        assert line in done.stdout
    for name in ("ada", "bot", "boss"):
        assert name in done.stdout


def test_make_passes_the_variable_on() -> None:
    for given, passed in (("KEYS=1", "--keys"), ("KEYS=/k.sqlite", "--keys /k.sqlite")):
        shown = subprocess.run(
            ["make", "-n", "serve", given, "MODEL=micro-r1"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert re.search(rf"serve --port 8000 {passed}\s+--model", shown), shown
