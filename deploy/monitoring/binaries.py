"""Where Prometheus and promtool are: on PATH, or unpacked from Debian's package without root."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / ".cache" / "prometheus"
INSTALL = "install it (Debian and Ubuntu: apt install prometheus) so that it is on PATH"


class MonitoringError(RuntimeError):
    """Something is missing; the message says what to do."""


def prometheus_binary(name: str, say: Callable[[str], None] = lambda _: None) -> str:
    """Path of `prometheus` or `promtool`. Where it is not installed, Debian's package is fetched by
    apt, which checks its signature, and unpacked below `.cache`: nothing is installed and no
    service started. Raises MonitoringError."""
    installed = shutil.which(name)
    if installed is not None:
        return installed
    unpacked = UNPACKED / "usr" / "bin" / name
    if not unpacked.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise MonitoringError(f"{name} is not on PATH and there is no apt here: {INSTALL}.")
        say("fetching Debian's package prometheus (about 20 MB), once")
        _unpack()
    return str(unpacked)


def _unpack() -> None:
    UNPACKED.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=UNPACKED.parent) as folder:
        _download(Path(folder))
        packages = [str(file) for file in Path(folder).glob("*.deb")]
        fresh = Path(folder) / "unpacked"
        _run(["dpkg-deb", "-x", *packages, str(fresh)], folder)
        shutil.rmtree(UNPACKED, ignore_errors=True)
        fresh.rename(UNPACKED)


def _download(folder: Path) -> None:
    """By the machine's lists of packages; where it has none, by lists in a folder of our own, since
    only root may update the machine's."""
    download = ["apt-get", "download", "--quiet", "prometheus"]
    try:
        _run(download, str(folder))
    except MonitoringError:
        own = [f"--option=Dir::{name}={folder / name}" for name in ("State::lists", "Cache")]
        (folder / "State::lists" / "partial").mkdir(parents=True)
        (folder / "Cache" / "archives" / "partial").mkdir(parents=True)
        _run(["apt-get", *own, "--quiet", "update"], str(folder))
        _run(["apt-get", *own, *download[1:]], str(folder))


def _run(command: list[str], folder: str) -> None:
    done = subprocess.run(  # noqa: S603 - words of our own
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-400:]
        raise MonitoringError(f"`{' '.join(command)}` failed: {said}\nOr {INSTALL}.")
