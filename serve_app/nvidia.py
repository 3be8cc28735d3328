"""What NVIDIA's driver reports of the GPUs of this machine."""

import re
import subprocess
from dataclasses import dataclass

MIB = 1024**2
# Ray's own rule for the label `ray.io/accelerator-type` (2.60, `_gpu_name_to_accelerator_type`):
# the model's token in capitals and digits, else the product name joined by hyphens.
_DATACENTER = re.compile(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)")
_QUERY = "index,uuid,name,memory.total,memory.free,compute_cap,driver_version"


@dataclass(frozen=True, slots=True)
class DriverGpu:
    """One GPU. What the driver does not know is None."""

    index: str
    uuid: str
    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None
    capability: tuple[int, int] | None = None
    driver: str | None = None

    @property
    def accelerator_type(self) -> str:
        """The label that Ray gives a node whose first GPU this is."""
        found = _DATACENTER.match(self.name)
        token = found.group(1).replace(" ", "-") if found else ""
        return token if len(token) > 1 else self.name.removeprefix("NVIDIA ").replace(" ", "-")


def installed_gpus() -> list[DriverGpu]:
    """This machine's GPUs; none if the driver does not answer."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(  # noqa: S603 - words of our own
            command, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines()]
    return [_gpu(row) for row in rows if len(row) == len(_QUERY.split(","))]


def gpu_with_id(gpu_id: str) -> DriverGpu | None:
    """The GPU that Ray calls `gpu_id`: an index, or a UUID where CUDA_VISIBLE_DEVICES has them."""
    gpus = installed_gpus()
    return next((gpu for gpu in gpus if gpu_id in (gpu.index, gpu.uuid)), None)


def _gpu(row: list[str]) -> DriverGpu:
    index, uuid, name, total, free, capability, driver = row
    major, dot, minor = capability.partition(".")
    return DriverGpu(
        index=index,
        uuid=uuid,
        name=name,
        memory_bytes=int(total) * MIB if total.isdigit() else None,
        free_bytes=int(free) * MIB if free.isdigit() else None,
        capability=(int(major), int(minor)) if dot and major.isdigit() else None,
        driver=driver or None,
    )
