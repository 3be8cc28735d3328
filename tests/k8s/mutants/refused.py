"""What the operator or the API server refuses."""

from tests.k8s.mutants.mutant import (
    CLUSTER,
    HEAD,
    HEAD_RAY,
    WORKER,
    WORKER_RAY,
    Edit,
    Mutant,
    edit_of,
)

OPERATOR_MUTANTS = (
    Mutant(
        "a name of 48 characters",
        "operator_accepts",
        (Edit("metadata/name", "tierserve-" + "x" * 38),),
    ),
    Mutant(
        "labels in rayStartParams (trap 17)",
        "operator_accepts",
        (Edit(f"{WORKER}/rayStartParams/labels", "ray.io/accelerator-type=T4"),),
    ),
    Mutant(
        "resources in two places",
        "operator_accepts",
        (
            Edit(f"{WORKER}/resources", {"GPU": "1"}),
            Edit(f"{WORKER}/rayStartParams/num-gpus", "1"),
        ),
    ),
    Mutant(
        "a strategy of another controller",
        "operator_accepts",
        (Edit("spec/upgradeStrategy/type", "RollingUpdate"),),
    ),
    Mutant("least above most", "operator_accepts", (Edit(f"{WORKER}/minReplicas", 3),)),
    Mutant(
        "Redis by variable",
        "operator_accepts",
        (Edit(f"{HEAD_RAY}/env/0/name", "RAY_REDIS_ADDRESS"),),
    ),
    Mutant(
        "a gated feature",
        "operator_accepts",
        (Edit(f"{CLUSTER}/networkPolicy", {"mode": "DenyAll"}),),
    ),
    Mutant(
        "an idle time of a group under autoscaler v1",
        "operator_accepts",
        (
            Edit(f"{WORKER}/idleTimeoutSeconds", 60),
            Edit(f"{CLUSTER}/autoscalerOptions/version", "v1"),
        ),
    ),
    Mutant(
        "a priority under an older Ray",
        "operator_accepts",
        (Edit(f"{WORKER}/priority", 1), Edit(f"{CLUSTER}/rayVersion", "2.55.1")),
    ),
    Mutant(
        "a token under an older Ray",
        "operator_accepts",
        (Edit(f"{CLUSTER}/rayVersion", "2.51.0"),),
    ),
    Mutant(
        "state on the head's disk, which a gate keeps shut",
        "operator_accepts",
        (Edit(f"{CLUSTER}/gcsFaultToleranceOptions", {"backend": "rocksdb"}),),
    ),
    Mutant(
        "an incremental upgrade without its options",
        "operator_accepts",
        (Edit("spec/upgradeStrategy/type", "NewClusterWithIncrementalUpgrade"),),
    ),
    Mutant(
        "a Pod that is restarted in place under autoscaler v2",
        "operator_accepts",
        (Edit(f"{WORKER}/template/spec/restartPolicy", "Always"),),
    ),
    Mutant(
        "another Ray", "ray_version_is_the_locked_one", (Edit(f"{CLUSTER}/rayVersion", "2.52.0"),)
    ),
)

API_SERVER_MUTANTS = (
    Mutant(
        "a misspelt field of the RayService",
        "crd_takes_the_rayservice",
        (Edit("spec/excludeHeadPodFromServeService", True),),
    ),
    Mutant(
        "a misspelt field of a Pod",
        "crd_takes_the_rayservice",
        (Edit(f"{WORKER}/template/spec/terminationGracePeriod", 60),),
    ),
    Mutant(
        "a number where a text belongs",
        "crd_takes_the_rayservice",
        (Edit(f"{HEAD}/rayStartParams/num-cpus", 0),),
    ),
    Mutant(
        "an autoscaler that there is not",
        "crd_takes_the_rayservice",
        (Edit(f"{CLUSTER}/autoscalerOptions/version", "v3"),),
    ),
    Mutant(
        "two ports of one number",
        "crd_takes_the_rayservice",
        (Edit(f"{WORKER_RAY}/ports/-", {"name": "again", "containerPort": 8000}),),
    ),
    Mutant(
        "a controller that the CRD's expression refuses",
        "crd_takes_the_rayservice",
        (Edit(f"{CLUSTER}/managedBy", "me"),),
    ),
    Mutant(
        "a worker group without its Pod",
        "crd_takes_the_rayservice",
        (Edit(f"{WORKER}/template"),),
    ),
    Mutant(
        "a misspelt field of a budget",
        "schemas_take_the_rest",
        edit_of("PodDisruptionBudget", "tierserve-worker", "spec/minAvailabe", 1),
    ),
    Mutant(
        "a volume of an unknown kind in the operator's Pod",
        "schemas_take_the_rest",
        (Edit(f"{WORKER}/template/spec/volumes/0", {"name": "tmp", "emptyDirectory": {}}),),
    ),
)
