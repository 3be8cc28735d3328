"""Faults of beginnings and ends."""

from tests.k8s.mutants.mutant import CLUSTER, HEAD_RAY, WORKER, WORKER_RAY, Edit, Mutant, edit_of

LIFETIME_MUTANTS = (
    Mutant(
        "a grace below Ray's drain",
        "stopping_workers_let_streams_end",
        (Edit(f"{WORKER}/template/spec/terminationGracePeriodSeconds", 600),),
    ),
    Mutant(
        "Kubernetes' grace of 30 s (trap 21)",
        "stopping_workers_let_streams_end",
        (Edit(f"{WORKER}/template/spec/terminationGracePeriodSeconds"),),
    ),
    Mutant(
        "Ray's drain of 30 s (trap 21)",
        "stopping_workers_let_streams_end",
        (Edit(f"{WORKER_RAY}/env/3"),),
    ),
    Mutant(
        "a drain that stops the replica before another one can serve (trap 25)",
        "stopping_workers_let_streams_end",
        (Edit(f"{WORKER_RAY}/env/3/value", "1830"),),
    ),
    Mutant(
        "an upgrade that deletes the old cluster after a minute (trap 14)",
        "stopping_workers_let_streams_end",
        (Edit("spec/rayClusterDeletionDelaySeconds"),),
        overlay="t4-gke",
    ),
    Mutant(
        "a reload of HAProxy that cuts streams (trap 21)",
        "stopping_workers_let_streams_end",
        edit_of(
            "ConfigMap", "tierserve-runtime", "data/RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", "120"
        ),
    ),
    Mutant(
        "answers that keep a node from being idle (trap 26)",
        "runtime_settings_are_those_of_runtime_env",
        edit_of("ConfigMap", "tierserve-runtime", "data/RAY_max_direct_call_object_size"),
    ),
    Mutant(
        "a head that drains for half an hour (trap 13)",
        "head_ends_at_once",
        (Edit(f"{HEAD_RAY}/env/3/value", "1830"),),
    ),
    Mutant(
        "given up after ten minutes (trap 20)",
        "start_has_time_to_load",
        (Edit("metadata/annotations/ray.io~1initializing-timeout", "10m"),),
    ),
    Mutant(
        "a budget with maxUnavailable (trap 1)",
        "budgets_can_be_kept",
        edit_of(
            "PodDisruptionBudget",
            "tierserve-worker",
            "spec",
            {
                "maxUnavailable": 1,
                "selector": {"matchLabels": {"app.kubernetes.io/component": "worker"}},
            },
        ),
    ),
    Mutant(
        "a budget in percent (trap 1)",
        "budgets_can_be_kept",
        edit_of("PodDisruptionBudget", "tierserve-worker", "spec/minAvailable", "50%"),
    ),
    Mutant(
        "a budget that allows no drain",
        "budgets_can_be_kept",
        edit_of("PodDisruptionBudget", "tierserve-worker", "spec/minAvailable", 2),
    ),
    Mutant(
        "a budget that selects nothing",
        "budgets_can_be_kept",
        edit_of(
            "PodDisruptionBudget",
            "tierserve-worker",
            "spec/selector/matchLabels",
            {"app": "tierserve"},
        ),
    ),
    Mutant(
        "a head that is neither recoverable nor protected (trap 4)",
        "head_is_recoverable_or_protected",
        (Edit(f"{CLUSTER}/gcsFaultToleranceOptions"),),
    ),
    Mutant(
        "recovering replicas are stopped after 30 s (trap 4)",
        "head_is_recoverable_or_protected",
        (Edit(f"{HEAD_RAY}/env/4"),),
    ),
    Mutant(
        "the operator's headless Service of the head (trap 24)",
        "workers_find_a_new_head",
        (Edit(f"{CLUSTER}/headGroupSpec/headService"),),
    ),
    Mutant(
        "a head's Service of ours that is headless (trap 24)",
        "workers_find_a_new_head",
        (Edit(f"{CLUSTER}/headGroupSpec/headService/spec/clusterIP", "None"),),
    ),
    Mutant(
        "a head that must be ready before its workers find it",
        "workers_find_a_new_head",
        (Edit(f"{CLUSTER}/headGroupSpec/headService/spec/publishNotReadyAddresses"),),
    ),
    Mutant(
        "one storage namespace for both clusters of an upgrade",
        "head_is_recoverable_or_protected",
        (Edit(f"{CLUSTER}/gcsFaultToleranceOptions/externalStorageNamespace", "tierserve"),),
        overlay="t4-gke",
    ),
    Mutant(
        "quotes that only a shell takes off (trap 10)",
        "runtime_settings_are_those_of_runtime_env",
        edit_of(
            "ConfigMap",
            "tierserve-runtime",
            "data/RAY_SERVE_HAPROXY_RETRY_ON",
            "'conn-failure empty-response'",
        ),
    ),
    Mutant(
        "workers without Serve's variables",
        "runtime_settings_are_those_of_runtime_env",
        (Edit(f"{WORKER_RAY}/envFrom"),),
    ),
    Mutant(
        "a setting on the workers only (trap 16)",
        "settings_are_alike_on_all_nodes",
        (Edit(f"{HEAD_RAY}/env/2"),),
    ),
    Mutant(
        "a ConfigMap with a hash in its name (trap 9)",
        "live_changes_make_no_new_cluster",
        (
            *edit_of(
                "ConfigMap", "tierserve-runtime", "metadata/name", "tierserve-runtime-5h2c9k8t7m"
            ),
            Edit(f"{WORKER_RAY}/envFrom/0/configMapRef/name", "tierserve-runtime-5h2c9k8t7m"),
        ),
    ),
    Mutant(
        "a ConfigMap mounted by subPath (trap 9)",
        "live_changes_make_no_new_cluster",
        (
            Edit(f"{WORKER}/template/spec/volumes/0", {"name": "tmp", "configMap": {"name": "x"}}),
            Edit(f"{WORKER_RAY}/volumeMounts/0/subPath", "settings.yaml"),
        ),
    ),
    Mutant(
        "an Ingress that ends streams after a minute (trap 7)",
        "proxies_wait_for_streams",
        edit_of(
            "Ingress",
            "tierserve",
            "metadata/annotations/nginx.ingress.kubernetes.io~1proxy-read-timeout",
        ),
        overlay="rtx4090",
    ),
    Mutant(
        "an Ingress that holds events back (trap 7)",
        "proxies_wait_for_streams",
        edit_of(
            "Ingress",
            "tierserve",
            "metadata/annotations/nginx.ingress.kubernetes.io~1proxy-buffering",
        ),
        overlay="rtx4090",
    ),
    Mutant(
        "a route that ends streams (trap 7)",
        "proxies_wait_for_streams",
        edit_of("HTTPRoute", "tierserve", "spec/rules/0/timeouts/request", "60s"),
    ),
    Mutant(
        "GKE's load balancer with its 30 s (trap 23)",
        "gke_waits_and_finds_pods_healthy",
        edit_of("GCPBackendPolicy", "tierserve", "spec/default/timeoutSec"),
        overlay="t4-gke",
    ),
    Mutant(
        "GKE's load balancer asks for / (trap 23)",
        "gke_waits_and_finds_pods_healthy",
        edit_of("HealthCheckPolicy", "tierserve", "spec/default/config", {"type": "HTTP"}),
        overlay="t4-gke",
    ),
)
