"""An `nvidia-smi` first on the PATH that answers what a test wants."""

from pathlib import Path

import pytest

T4 = "0, GPU-1, Tesla T4, 15360, 15000, 7.5, 550.54"
RTX_4090 = "0, GPU-2, NVIDIA GeForce RTX 4090, 24564, 24000, 8.9, 560.35"
RTX_2060 = "0, GPU-3, NVIDIA GeForce RTX 2060, 6144, 5900, 7.5, 550.54"


def put_gpus(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str, status: int = 0) -> None:
    script = folder / "nvidia-smi"
    echoes = "\n".join(f"echo '{line}'" for line in lines)
    script.write_text(f"#!/bin/sh\n{echoes}\nexit {status}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
