"""GPUs as the driver reports them, and Ray's names for them."""

from pathlib import Path

import pytest

from serve_app.nvidia import MIB, DriverGpu, gpu_with_id, installed_gpus
from tests.fake_nvidia_smi import RTX_4090, T4, put_gpus


@pytest.mark.parametrize(
    ("name", "accelerator_type"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "GeForce-RTX-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "GeForce-RTX-4090-Laptop-GPU"),
        ("NVIDIA GeForce RTX 2060", "GeForce-RTX-2060"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000"),
    ],
)
def test_the_type_is_the_label_that_ray_gives(name: str, accelerator_type: str) -> None:
    ray_names = pytest.importorskip("ray._private.accelerators.nvidia_gpu")
    rays = ray_names.NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(name)
    assert DriverGpu("0", "", name).accelerator_type == accelerator_type == rays


def test_gpus_have_memory_capability_and_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_gpus(monkeypatch, tmp_path, T4, RTX_4090.replace("0, GPU-2", "1, GPU-2"))
    t4, rtx = installed_gpus()
    assert (t4.memory_bytes, t4.capability, t4.driver) == (15360 * MIB, (7, 5), "550.54")
    assert (rtx.free_bytes, rtx.capability) == (24000 * MIB, (8, 9))
    assert gpu_with_id("1") == rtx
    assert gpu_with_id("GPU-1") == t4
    assert gpu_with_id("7") is None


def test_no_driver_means_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed_gpus() == []
    put_gpus(monkeypatch, tmp_path, "no devices were found", status=6)
    assert installed_gpus() == []


def test_what_the_driver_does_not_tell_is_not_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_gpus(monkeypatch, tmp_path, "0, GPU-1, NVIDIA GRID, [N/A], [N/A], [N/A], 470.1")
    (gpu,) = installed_gpus()
    assert (gpu.memory_bytes, gpu.free_bytes, gpu.capability) == (None, None, None)
