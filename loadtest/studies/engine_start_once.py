"""One start of an engine as a replica starts it, without Ray, with the code that PYTHONPATH names:
`python engine_start_once.py MODEL CACHE eager|compiled`. A line of its output is JSON."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def main(model: str, cache: str, mode: str) -> None:
    began_s = psutil.Process().create_time()
    asyncio.run(_start(model, cache, began_s, eager=mode == "eager"))


async def _start(model: str, cache: str, began_s: float, *, eager: bool) -> None:
    # This package's, of the tree that PYTHONPATH names.
    from serve_app.config.engine import EngineConfig
    from serve_app.config.tier import TierArgs
    from serve_app.core.placement.hardware import hardware_for
    from serve_app.serving.engine_start import start_engine

    phases_s: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        phase_began_s = time.monotonic()
        yield
        phases_s[name] = round(time.monotonic() - phase_began_s, 2)

    config = EngineConfig(max_model_len=2048, enforce_eager=eager, compile_cache_dir=cache)
    args = TierArgs.model_validate({"tier": "chat", "model": model, "engine": config.model_dump()})
    engine, _ = await start_engine(args, hardware_for(None), phase)
    ready_s = time.time() - began_s
    used_s = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used_s += times.user + times.system + times.children_user + times.children_system
    engine.shutdown()
    result = {"ready_s": round(ready_s, 2), "cpu_s": round(used_s, 2), "phases_s": phases_s}
    sys.stdout.write(f"\n{json.dumps(result)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
