"""The licence is the one that it says it is, and the package names it."""

import hashlib
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# Of https://www.apache.org/licenses/LICENSE-2.0.txt.
APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_licence_is_apaches_unchanged_text() -> None:
    text = (REPOSITORY / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest() == APACHE_2_SHA256


def test_package_and_image_carry_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    dockerfile = (REPOSITORY / "deploy/Dockerfile").read_text()
    assert "COPY pyproject.toml README.md LICENSE ./" in dockerfile
    assert 'image.licenses="Apache-2.0"' in dockerfile
    assert "!LICENSE" in (REPOSITORY / ".dockerignore").read_text()


def test_what_is_others_is_listed_with_its_licence() -> None:
    page = (REPOSITORY / "docs/third-party.md").read_text()
    for made_by_others in ("deepseek_r1.jinja", "micro_r1/chat_template.jinja", "loadtest/traces/"):
        assert made_by_others in page
    assert "Copyright (c) 2023 DeepSeek" in page
