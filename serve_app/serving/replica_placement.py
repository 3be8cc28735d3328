"""Where Ray has placed this replica: node and GPU."""

from dataclasses import dataclass
from typing import Any, cast

import ray

from serve_app.core.placement.labels import ACCELERATOR_LABEL, UNLABELLED
from serve_app.nvidia import gpu_with_id


@dataclass(frozen=True, slots=True)
class ReplicaPlacement:
    """`accelerator_type` is Ray's name of the replica's GPU; None without one."""

    node: str
    gpu_ids: tuple[str, ...]
    accelerator_type: str | None
    # GPUs that the replica holds; a fraction of one where it shares it.
    gpus: float

    @classmethod
    def of_this_process(cls) -> "ReplicaPlacement":
        context = ray.get_runtime_context()
        gpu_ids = tuple(context.get_accelerator_ids().get("GPU", ()))
        # Ray's annotation says lists; a label is one string.
        labels = cast(dict[str, str], context.get_node_labels())
        return cls(
            node=context.get_node_id(),
            gpu_ids=gpu_ids,
            accelerator_type=_gpu_type(gpu_ids[0], labels) if gpu_ids else None,
            gpus=float(context.get_assigned_resources().get("GPU", 0.0)),
        )

    def autoscaling_stats(self, preferred: str | None) -> dict[str, float]:
        """GPUs that the replica holds, and whether it had to take another GPU than `preferred`."""
        fallback = preferred is not None and self.accelerator_type != preferred
        return {"gpus": self.gpus, "fallback": float(fallback)}

    def report(self) -> dict[str, Any]:
        """Fields of a replica's report."""
        return {
            "node": self.node,
            "gpu_ids": list(self.gpu_ids),
            "accelerator_type": self.accelerator_type,
        }


def _gpu_type(gpu_id: str, labels: dict[str, str]) -> str:
    """By the driver where it knows the GPU: a node's label names its first GPU only, and a node
    without one still has a GPU."""
    gpu = gpu_with_id(gpu_id)
    return gpu.accelerator_type if gpu else labels.get(ACCELERATOR_LABEL, UNLABELLED)
