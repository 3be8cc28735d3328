"""Applications without an engine: what a start and a stop need, and no more."""

import json
import subprocess
import sys
import time
from typing import Any

from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

LOAD_S = 2.0
# Ends by SIGKILL only, and is nobody's child after its parent's end: as an engine process may be.
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


async def answer(_request: Request) -> JSONResponse:
    return JSONResponse({"ok": True})


class SmallApp:
    def __init__(self, name: str, fault: str | None) -> None:
        log(tier=name, phase="load", message="begins")
        time.sleep(LOAD_S)
        if fault is not None:
            raise ValueError(fault)
        subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True)
        log(tier=name, phase="load", message="done", duration_s=LOAD_S)


def log(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def build(args: dict[str, Any]) -> serve.Application:
    app = Starlette(routes=[Route("/", answer), Route("/readyz", answer)])
    deployment = serve.deployment(name=args["name"], ray_actor_options={"num_cpus": 0.1})
    return deployment(serve.ingress(app)(SmallApp)).bind(args["name"], args.get("fault"))
