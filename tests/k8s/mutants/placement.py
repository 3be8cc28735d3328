"""Faults of the Serve config, and of what runs where."""

from tests.k8s.mutants.mutant import (
    CLUSTER,
    HEAD,
    HEAD_RAY,
    WORKER,
    WORKER_RAY,
    Edit,
    Mutant,
    config_text,
    edit_of,
)

_HPA = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "tierserve", "namespace": "tierserve"},
}

SERVE_MUTANTS = (
    Mutant(
        "a deployment's limit differs from the profile's",
        "serve_config_is_that_of_serve_run",
        config_text("max_new_tokens: 1024", "max_new_tokens: 512"),
    ),
    Mutant(
        "a misspelt key of Ray's (trap 6)",
        "serve_keys_are_known",
        config_text("max_queued_requests: 2048", "max_queued_request: 2048"),
    ),
    Mutant(
        "a misspelt key of Ray's, deep inside (trap 6)",
        "serve_keys_are_known",
        config_text("look_back_period_s: 2", "lookback_period_s: 2"),
    ),
    Mutant(
        "a misspelt live setting",
        "serve_keys_are_known",
        config_text("max_new_tokens: 2048", "max_new_token: 2048"),
    ),
    Mutant(
        "max_ongoing_requests left to Ray (trap 5)",
        "ingress_sets_max_ongoing_requests",
        config_text("max_ongoing_requests: 2048", "# none"),
    ),
    Mutant(
        "Serve listens on loopback (trap 15)",
        "serve_listens_where_the_service_leads",
        config_text("host: 0.0.0.0", "host: 127.0.0.1"),
        overlay="cpu-demo",
    ),
    Mutant(
        "the head has no port named serve",
        "serve_listens_where_the_service_leads",
        (Edit(f"{HEAD_RAY}/ports/2/name", "http"),),
    ),
)

PLACEMENT_MUTANTS = (
    Mutant(
        "a worker with two GPUs",
        "one_gpu_a_worker",
        (Edit(f"{WORKER_RAY}/resources/limits/nvidia.com~1gpu", "2"),),
    ),
    Mutant(
        "GPUs in limits only",
        "one_gpu_a_worker",
        (Edit(f"{WORKER_RAY}/resources/requests/nvidia.com~1gpu"),),
    ),
    Mutant(
        "a product name that no node has",
        "gpu_nodes_are_selected_and_tolerated",
        (Edit(f"{WORKER}/template/spec/nodeSelector/nvidia.com~1gpu.product", "NVIDIA-T4"),),
    ),
    Mutant(
        "GPUs that are shared out",
        "gpu_nodes_are_selected_and_tolerated",
        (Edit(f"{WORKER}/template/spec/nodeSelector/nvidia.com~1gpu.replicas"),),
    ),
    Mutant(
        "the GPU nodes' taint is not tolerated",
        "gpu_nodes_are_selected_and_tolerated",
        (Edit(f"{WORKER}/template/spec/tolerations"),),
        overlay="t4-gke",
    ),
    Mutant(
        "T4 Pods on nodes of an instance type with another GPU",
        "gpu_nodes_are_selected_and_tolerated",
        (
            Edit(
                f"{WORKER}/template/spec/nodeSelector/node.kubernetes.io~1instance-type",
                "Standard_NC24ads_A100_v4",
            ),
        ),
        overlay="t4-aks",
    ),
    Mutant(
        "a group without Ray's label (trap 17)",
        "every_deployment_has_a_place",
        (Edit(f"{WORKER}/labels"),),
    ),
    Mutant(
        "Ray's label with a constant of other GPUs",
        "every_deployment_has_a_place",
        (Edit(f"{WORKER}/labels/ray.io~1accelerator-type", "RTX4090"),),
        overlay="rtx4090",
    ),
    Mutant(
        "a worker with too few CPUs for a replica",
        "every_deployment_has_a_place",
        (Edit(f"{WORKER_RAY}/resources/requests/cpu", "1"),),
    ),
    Mutant(
        "fewer workers than tiers to begin with",
        "every_deployment_has_a_place",
        (Edit(f"{WORKER}/minReplicas", 0),),
        overlay="rtx4090",
    ),
    Mutant(
        "a CPU limit",
        "cpus_are_requested_not_limited",
        (Edit(f"{WORKER_RAY}/resources/limits/cpu", "4"),),
    ),
    Mutant(
        "more memory allowed than requested",
        "memory_is_limited_as_requested",
        (Edit(f"{WORKER_RAY}/resources/limits/memory", "32Gi"),),
    ),
    Mutant(
        "replicas on the head",
        "head_takes_no_load",
        (Edit(f"{HEAD}/rayStartParams/num-cpus", "2"),),
    ),
    Mutant(
        "streams through the head",
        "head_takes_no_load",
        (Edit("spec/excludeHeadPodFromServeSvc"),),
    ),
    Mutant(
        "autoscaler v1",
        "autoscaling_is_rays_v2",
        (Edit(f"{CLUSTER}/autoscalerOptions/version", "v1"),),
    ),
    Mutant("an HPA on Ray's Pods (trap 1)", "autoscaling_is_rays_v2", (), added=_HPA),
    Mutant(
        "NewCluster with no spare GPU (trap 3)",
        "upgrade_has_the_gpus_it_needs",
        (Edit("spec/upgradeStrategy/type", "NewCluster"),),
    ),
    Mutant(
        "no strategy, which is NewCluster (trap 3)",
        "upgrade_has_the_gpus_it_needs",
        (Edit("spec/upgradeStrategy"),),
    ),
    Mutant(
        "None, though there are GPUs for an upgrade (trap 3)",
        "upgrade_has_the_gpus_it_needs",
        (Edit("spec/upgradeStrategy/type", "None"),),
        overlay="t4-eks",
    ),
    Mutant(
        "more workers than GPUs",
        "upgrade_has_the_gpus_it_needs",
        (Edit(f"{WORKER}/maxReplicas", 8),),
    ),
    Mutant(
        "a cache that one node mounts (trap 22)",
        "cache_reaches_every_node",
        edit_of("PersistentVolumeClaim", "tierserve-cache", "spec/accessModes", ["ReadWriteOnce"]),
    ),
    Mutant(
        "both kinds of GPU share compiled code",
        "cache_reaches_every_node",
        (Edit(f"{WORKER_RAY}/volumeMounts/4/subPath", "compiled-rtx4090"),),
    ),
)
