"""What the operator or the API server refuses."""

from tests.k8s.mutants.mutant import (
    CLUSTER,
    HEAD,
    HEAD_RAY,
    WORKER,
    WORKER_RAY,
    Edit,
    edit_of,
    mutants_of,
)

OPERATOR_MUTANTS = mutants_of(
    {
        "operator_accepts": {
            "a name of 48 characters": Edit("metadata/name", "tierserve-" + "x" * 38),
            "labels in rayStartParams (trap 17)": Edit(
                f"{WORKER}/rayStartParams/labels", "ray.io/accelerator-type=T4"
            ),
            "resources in two places": (
                Edit(f"{WORKER}/resources", {"GPU": "1"}),
                Edit(f"{WORKER}/rayStartParams/num-gpus", "1"),
            ),
            "a strategy of another controller": Edit("spec/upgradeStrategy/type", "RollingUpdate"),
            "least above most": Edit(f"{WORKER}/minReplicas", 3),
            "Redis by variable": Edit(f"{HEAD_RAY}/env/0/name", "RAY_REDIS_ADDRESS"),
            "a gated feature": Edit(f"{CLUSTER}/networkPolicy", {"mode": "DenyAll"}),
            "an idle time of a group under autoscaler v1": (
                Edit(f"{WORKER}/idleTimeoutSeconds", 60),
                Edit(f"{CLUSTER}/autoscalerOptions/version", "v1"),
            ),
            "a priority under an older Ray": (
                Edit(f"{WORKER}/priority", 1),
                Edit(f"{CLUSTER}/rayVersion", "2.55.1"),
            ),
            "a token under an older Ray": Edit(f"{CLUSTER}/rayVersion", "2.51.0"),
            "state on the head's disk, which a gate keeps shut": Edit(
                f"{CLUSTER}/gcsFaultToleranceOptions", {"backend": "rocksdb"}
            ),
            "an incremental upgrade without its options": Edit(
                "spec/upgradeStrategy/type", "NewClusterWithIncrementalUpgrade"
            ),
            "a Pod that is restarted in place under autoscaler v2": Edit(
                f"{WORKER}/template/spec/restartPolicy", "Always"
            ),
        },
        "ray_version_is_the_locked_one": {
            "another Ray": Edit(f"{CLUSTER}/rayVersion", "2.52.0"),
        },
    }
)

API_SERVER_MUTANTS = mutants_of(
    {
        "crd_takes_the_rayservice": {
            "a misspelt field of the RayService": Edit("spec/excludeHeadPodFromServeService", True),
            "a misspelt field of a Pod": Edit(f"{WORKER}/template/spec/terminationGracePeriod", 60),
            "a number where a text belongs": Edit(f"{HEAD}/rayStartParams/num-cpus", 0),
            "an autoscaler that there is not": Edit(f"{CLUSTER}/autoscalerOptions/version", "v3"),
            "two ports of one number": Edit(
                f"{WORKER_RAY}/ports/-", {"name": "again", "containerPort": 8000}
            ),
            "a controller that the CRD's expression refuses": Edit(f"{CLUSTER}/managedBy", "me"),
            "a worker group without its Pod": Edit(f"{WORKER}/template"),
        },
        "schemas_take_the_rest": {
            "a misspelt field of a budget": edit_of(
                "PodDisruptionBudget", "tierserve-worker", "spec/minAvailabe", 1
            ),
            "a volume of an unknown kind in the operator's Pod": Edit(
                f"{WORKER}/template/spec/volumes/0", {"name": "tmp", "emptyDirectory": {}}
            ),
        },
    }
)
