"""Faults of the Serve config, and of what runs where."""

from tests.k8s.mutants.mutant import (
    CLUSTER,
    HEAD,
    HEAD_RAY,
    WEB,
    WORKER,
    WORKER_RAY,
    Edit,
    Fault,
    config_text,
    edit_of,
    mutants_of,
)

_HPA = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "tierserve", "namespace": "tierserve"},
}

SERVE_MUTANTS = mutants_of(
    {
        "serve_config_is_that_of_serve_run": {
            "a deployment's limit differs from the profile's": config_text(
                "max_new_tokens: 1024", "max_new_tokens: 512"
            ),
        },
        "serve_keys_are_known": {
            "a misspelt key of Ray's (trap 6)": config_text(
                "max_queued_requests: 2048", "max_queued_request: 2048"
            ),
            "a misspelt key of Ray's, deep inside (trap 6)": config_text(
                "look_back_period_s: 2", "lookback_period_s: 2"
            ),
            "a misspelt live setting": config_text("max_new_tokens: 2048", "max_new_token: 2048"),
        },
        "ingress_sets_max_ongoing_requests": {
            "max_ongoing_requests left to Ray (trap 5)": config_text(
                "max_ongoing_requests: 2048", "# none"
            ),
        },
        "serve_listens_where_the_service_leads": {
            "Serve listens on loopback (trap 15)": Fault(
                config_text("host: 0.0.0.0", "host: 127.0.0.1"), overlay="cpu-demo"
            ),
            "the head has no port named serve": Edit(f"{HEAD_RAY}/ports/2/name", "http"),
        },
    }
)

PLACEMENT_MUTANTS = mutants_of(
    {
        "one_gpu_a_worker": {
            "a worker with two GPUs": Edit(f"{WORKER_RAY}/resources/limits/nvidia.com~1gpu", "2"),
            "GPUs in limits only": Edit(f"{WORKER_RAY}/resources/requests/nvidia.com~1gpu"),
        },
        "gpu_nodes_are_selected_and_tolerated": {
            "a product name that no node has": Edit(
                f"{WORKER}/template/spec/nodeSelector/nvidia.com~1gpu.product", "NVIDIA-T4"
            ),
            "GPUs that are shared out": Edit(
                f"{WORKER}/template/spec/nodeSelector/nvidia.com~1gpu.replicas"
            ),
            "the GPU nodes' taint is not tolerated": Fault(
                Edit(f"{WORKER}/template/spec/tolerations"), overlay="t4-gke"
            ),
            "T4 Pods on nodes of an instance type with another GPU": Fault(
                Edit(
                    f"{WORKER}/template/spec/nodeSelector/node.kubernetes.io~1instance-type",
                    "Standard_NC24ads_A100_v4",
                ),
                overlay="t4-aks",
            ),
        },
        "every_deployment_has_a_place": {
            "a group without Ray's label (trap 17)": Edit(f"{WORKER}/labels"),
            "Ray's label with a constant of other GPUs": Fault(
                Edit(f"{WORKER}/labels/ray.io~1accelerator-type", "RTX4090"), overlay="rtx4090"
            ),
            "a worker with too few CPUs for a replica": Edit(
                f"{WORKER_RAY}/resources/requests/cpu", "1"
            ),
            "no group without a GPU for the gateway": Edit(WEB),
            "fewer workers than tiers to begin with": Fault(
                Edit(f"{WORKER}/minReplicas", 0), overlay="rtx4090"
            ),
        },
        "gateway_is_beside_no_gpu": {
            "a GPU's Pod that the gateway falls back to (trap 27)": Edit(
                f"{WORKER}/labels/tierserve~1gateway"
            ),
            "a gateway that falls back to any GPU (trap 27)": config_text(
                'tierserve/gateway: "!elsewhere"', 'zone: "!a"'
            ),
            "no Pod for the gateway (trap 27)": Edit(f"{WEB}/minReplicas", 0),
            "the gateway's Pod is all that the workers' budget keeps": Edit(
                f"{WEB}/template/metadata/labels/app.kubernetes.io~1component", "worker"
            ),
            "the gateway's Pod tolerates the GPU nodes' taint": Edit(
                f"{WEB}/template/spec/tolerations", [{"key": "nvidia.com/gpu"}]
            ),
            "the gateway's Pod on a GPU node without a taint": Edit(
                f"{WEB}/template/spec/affinity"
            ),
        },
        "cpus_are_requested_not_limited": {
            "a CPU limit": Edit(f"{WORKER_RAY}/resources/limits/cpu", "4"),
        },
        "memory_is_limited_as_requested": {
            "more memory allowed than requested": Edit(
                f"{WORKER_RAY}/resources/limits/memory", "32Gi"
            ),
        },
        "head_takes_no_load": {
            "replicas on the head": Edit(f"{HEAD}/rayStartParams/num-cpus", "2"),
            "streams through the head": Edit("spec/excludeHeadPodFromServeSvc"),
        },
        "autoscaling_is_rays_v2": {
            "autoscaler v1": Edit(f"{CLUSTER}/autoscalerOptions/version", "v1"),
            "an HPA on Ray's Pods (trap 1)": Fault(added=_HPA),
        },
        "upgrade_has_the_gpus_it_needs": {
            "NewCluster with no spare GPU (trap 3)": Edit(
                "spec/upgradeStrategy/type", "NewCluster"
            ),
            "no strategy, which is NewCluster (trap 3)": Edit("spec/upgradeStrategy"),
            "None, though there are GPUs for an upgrade (trap 3)": Fault(
                Edit("spec/upgradeStrategy/type", "None"), overlay="t4-eks"
            ),
            "more workers than GPUs": Edit(f"{WORKER}/maxReplicas", 8),
        },
        "cache_reaches_every_node": {
            "a cache that one node mounts (trap 22)": edit_of(
                "PersistentVolumeClaim", "tierserve-cache", "spec/accessModes", ["ReadWriteOnce"]
            ),
            "both kinds of GPU share compiled code": Edit(
                f"{WORKER_RAY}/volumeMounts/4/subPath", "compiled-rtx4090"
            ),
        },
    }
)
