"""Build the image's CPU kind in folders, then serve from it as its user, with a root that cannot be
written to, and ask it once."""

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

from tests.k8s.image.dockerfile import Build, Stage, in_root

REPOSITORY = Path(__file__).resolve().parents[3]
PORT = 8399
READY_WITHIN_S = 300
# What the Pods mount, and may be written to (k8s/base/rayservice.yaml).
WRITABLE = ("/tmp", "/home/scratch", "/dev/shm")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.k8s.image", description=__doc__)
    parser.add_argument("folder", type=Path, help="about 10 GB; what is there is built anew")
    parser.add_argument("--mount", type=Path, action="append", default=[], metavar="PATH",
                        help="a folder of this machine that steps may read")  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="serve from what was built before")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    runtime = options.folder / "runtime"
    if not options.keep:
        shutil.rmtree(options.folder, ignore_errors=True)
        options.folder.mkdir(parents=True)
        given = {"KIND": "cpu", "BASE_DIGEST": "none"}
        build = Build(REPOSITORY, options.folder, given, tuple(options.mount))
        began_s = time.monotonic()
        stage = build.run(REPOSITORY / "deploy/Dockerfile", until="runtime")
        print(f"built in {time.monotonic() - began_s:.0f} s")
        (options.folder / "stage.json").write_text(
            json.dumps([stage.env, stage.workdir, stage.user, stage.command])
        )
    env, workdir, user, command = json.loads((options.folder / "stage.json").read_text())
    prove(Stage(runtime, env, {}, workdir, user, command))
    return 0


def prove(stage: Stage) -> None:
    """Start the image's own command, read-only, and chat."""
    assert not _answers("/readyz"), f"port {PORT} is taken"
    command = [*stage.command, "--port", str(PORT), "--model", "micro-r1"]
    server = subprocess.Popen(in_root(stage, command, writable=WRITABLE))
    try:
        began_s = time.monotonic()
        while not _answers("/readyz"):
            assert server.poll() is None, "it has ended"
            assert time.monotonic() < began_s + READY_WITHIN_S, "it is not ready"
            time.sleep(1)
        print(f"ready after {time.monotonic() - began_s:.0f} s")
        body = {"messages": [{"role": "user", "content": "What is 2+3?"}], "max_tokens": 200}
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}/api/chat/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            reply = json.load(answer)
        assert reply["choices"][0]["message"]["content"], reply
        print(f"answered: {reply['usage']['completion_tokens']} tokens")
    finally:
        # unshare itself takes no notice of it.
        for child in psutil.Process(server.pid).children():
            child.terminate()
        print(f"ended with {server.wait(60)}")


def _answers(path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
