"""The root folder that a container starts from: an image's that `make test-image` built, or this
machine's own with the project's environment in it. Containers write into a layer of their own."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.k8s.manifests import REPO

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Where the image has what this checkout has too (deploy/Dockerfile).
_IN_IMAGE = Path("/opt/tierserve/app")
_OF_THE_APPLICATION = ("serve_app", "deploy")
PASSWD = "ray:x:1000:100::/home/scratch:/bin/bash"


@dataclass(frozen=True, slots=True)
class Root:
    """`shown`: files and folders of this machine that a container sees, by their path in it."""

    folder: Path
    env: Mapping[str, str]
    workdir: str
    shown: Mapping[str, Path]

    @property
    def is_this_machine(self) -> bool:
        return self.folder == Path("/")


def of_image(folder: Path) -> Root:
    """What `make test-image` left in this folder, with this checkout's application in it."""
    env, workdir, _, _ = json.loads((folder / "stage.json").read_text())
    shown = {str(_IN_IMAGE / name): REPO / name for name in _OF_THE_APPLICATION}
    return Root((folder / "runtime").resolve(), env, workdir, shown)


def of_this_machine() -> Root:
    """Debian's packages and the environment that runs this; variables as the image's."""
    binaries = Path(sys.executable).parent
    env = {
        "PATH": f"{binaries}:{_PATH}",
        "HOME": "/home/scratch",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    # A second time, because a Pod's volume may hide the place where they are, as below /tmp.
    shown = {str(REPO): REPO, sys.prefix: Path(sys.prefix)}
    return Root(Path("/"), env, str(REPO), shown)


def closed_to_others(root: Root) -> list[Path]:
    """Folders on the way to the environment that only their owner may enter, such as /root: a
    container's layer opens them for its user."""
    if not root.is_this_machine:
        return []
    ways = [Path(sys.executable), Path(os.path.realpath(sys.executable)), REPO / "serve_app"]
    folders = {parent for way in ways for parent in way.parents}
    return sorted(folder for folder in folders if not folder.stat().st_mode & 0o001)
