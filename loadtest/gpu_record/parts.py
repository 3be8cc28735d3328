"""The parts of a record that are no command of their own: what fits, and what a start takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtest.client.server_info import kv_tokens_of
from loadtest.errors import MeasurementError
from loadtest.gpu_record.service import GpuService, read, replica_of, serving
from loadtest.report.results_file import write
from serve_app.config.engine import EngineConfig
from serve_app.core.placement.hardware import GIB, hardware_for, model_shape
from serve_app.core.tiers import Tier
from serve_app.engine.models.fit_check import check_model, gpu_of_replica, model_files
from serve_app.engine.models.model_dir import ModelNotFoundError
from serve_app.nvidia import gpu_with_id

STARTS, STARTS_FILE = 2, "starts.json"


def measure_starts(served: GpuService, folder: Path, say: Callable[[str], None]) -> None:
    """Start the service twice, the second time with what the first one has kept, and write the
    phases of each, the memory, and the KV cache predicted and found. Raises MeasurementError."""
    predicted = predicted_kv_tokens(served)
    starts: list[dict[str, Any]] = []
    for number in range(1, STARTS + 1):
        say(f"start {number} of {STARTS}")
        with serving(served) as base_url:
            replica = replica_of(base_url)
            starts.append(
                {
                    "phases_s": replica["start_phases_s"],
                    "slots": replica.get("slots"),
                    "kv_tokens": kv_tokens_of(read(f"{base_url}/metrics"), Tier.CHAT),
                    "gpu_bytes_in_use": _gpu_bytes_in_use(served),
                }
            )
        say(f"start {number}: {starts[-1]['phases_s'].get('total')} s")
    write(folder / STARTS_FILE, {"predicted": predicted, "starts": starts})


def predicted_kv_tokens(served: GpuService) -> dict[str, Any]:
    """What the arithmetic of docs/placement.md says that the KV cache will hold, and why."""
    [chat] = (app for app in served.config["applications"] if app["name"] == Tier.CHAT)
    engine = EngineConfig.model_validate(chat["args"].get("engine") or {})
    try:
        files = model_files(served.model)
        if served.gpu is None:
            kv_bytes = model_shape(files.config).kv_bytes_per_token
            tokens = engine.cpu_kv_cache_gib * GIB // kv_bytes
            reason = f"{engine.cpu_kv_cache_gib} GiB of {kv_bytes:,} bytes a token"
            return {"kv_tokens": tokens, "reason": reason}
        gpu = gpu_of_replica(hardware_for(served.gpu.accelerator_type), served.gpu)
        checked = check_model(engine, files, gpu)
    except (ModelNotFoundError, ValueError) as error:
        raise MeasurementError(str(error)) from None
    if checked is None:
        return {"kv_tokens": None, "reason": "the model's config.json has no sizes"}
    return {"kv_tokens": checked.fit.kv_tokens, "reason": checked.fit.reason}


def _gpu_bytes_in_use(served: GpuService) -> int | None:
    """Of all programs, by the driver."""
    now = None if served.gpu is None else gpu_with_id(served.gpu.uuid)
    if now is None or now.memory_bytes is None or now.free_bytes is None:
        return None
    return now.memory_bytes - now.free_bytes
