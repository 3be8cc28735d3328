"""Faults of beginnings and ends."""

from tests.k8s.mutants.mutant import (
    CLUSTER,
    HEAD_RAY,
    WORKER,
    WORKER_RAY,
    Edit,
    Fault,
    edit_of,
    mutants_of,
)

LIFETIME_MUTANTS = mutants_of(
    {
        "stopping_workers_let_streams_end": {
            "a grace below Ray's drain": Edit(
                f"{WORKER}/template/spec/terminationGracePeriodSeconds", 600
            ),
            "Kubernetes' grace of 30 s (trap 21)": Edit(
                f"{WORKER}/template/spec/terminationGracePeriodSeconds"
            ),
            "Ray's drain of 30 s (trap 21)": Edit(f"{WORKER_RAY}/env/3"),
            "a drain that stops the replica before another one can serve (trap 25)": Edit(
                f"{WORKER_RAY}/env/3/value", "1830"
            ),
            "an upgrade that deletes the old cluster after a minute (trap 14)": Fault(
                Edit("spec/rayClusterDeletionDelaySeconds"), overlay="t4-gke"
            ),
            "a reload of HAProxy that cuts streams (trap 21)": edit_of(
                "ConfigMap", "tierserve-runtime", "data/RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", "120"
            ),
        },
        "runtime_settings_are_those_of_runtime_env": {
            "answers that keep a node from being idle (trap 26)": edit_of(
                "ConfigMap", "tierserve-runtime", "data/RAY_max_direct_call_object_size"
            ),
            "quotes that only a shell takes off (trap 10)": edit_of(
                "ConfigMap",
                "tierserve-runtime",
                "data/RAY_SERVE_HAPROXY_RETRY_ON",
                "'conn-failure empty-response'",
            ),
            "workers without Serve's variables": Edit(f"{WORKER_RAY}/envFrom"),
        },
        "head_ends_at_once": {
            "a head that drains for half an hour (trap 13)": Edit(
                f"{HEAD_RAY}/env/3/value", "1830"
            ),
        },
        "start_has_time_to_load": {
            "given up after ten minutes (trap 20)": Edit(
                "metadata/annotations/ray.io~1initializing-timeout", "10m"
            ),
        },
        "budgets_can_be_kept": {
            "a budget with maxUnavailable (trap 1)": edit_of(
                "PodDisruptionBudget",
                "tierserve-worker",
                "spec",
                {
                    "maxUnavailable": 1,
                    "selector": {"matchLabels": {"app.kubernetes.io/component": "worker"}},
                },
            ),
            "a budget in percent (trap 1)": edit_of(
                "PodDisruptionBudget", "tierserve-worker", "spec/minAvailable", "50%"
            ),
            "a budget that allows no drain": edit_of(
                "PodDisruptionBudget", "tierserve-worker", "spec/minAvailable", 2
            ),
            "a budget that selects nothing": edit_of(
                "PodDisruptionBudget",
                "tierserve-worker",
                "spec/selector/matchLabels",
                {"app": "tierserve"},
            ),
        },
        "head_is_recoverable_or_protected": {
            "a head that is neither recoverable nor protected (trap 4)": Edit(
                f"{CLUSTER}/gcsFaultToleranceOptions"
            ),
            "recovering replicas are stopped after 30 s (trap 4)": Edit(f"{HEAD_RAY}/env/4"),
            "one storage namespace for both clusters of an upgrade": Fault(
                Edit(f"{CLUSTER}/gcsFaultToleranceOptions/externalStorageNamespace", "tierserve"),
                overlay="t4-gke",
            ),
        },
        "workers_find_a_new_head": {
            "the operator's headless Service of the head (trap 24)": Edit(
                f"{CLUSTER}/headGroupSpec/headService"
            ),
            "a head's Service of ours that is headless (trap 24)": Edit(
                f"{CLUSTER}/headGroupSpec/headService/spec/clusterIP", "None"
            ),
            "a head that must be ready before its workers find it": Edit(
                f"{CLUSTER}/headGroupSpec/headService/spec/publishNotReadyAddresses"
            ),
        },
        "settings_are_alike_on_all_nodes": {
            "a setting on the workers only (trap 16)": Edit(f"{HEAD_RAY}/env/2"),
        },
        "live_changes_make_no_new_cluster": {
            "a ConfigMap with a hash in its name (trap 9)": (
                edit_of(
                    "ConfigMap",
                    "tierserve-runtime",
                    "metadata/name",
                    "tierserve-runtime-5h2c9k8t7m",
                ),
                Edit(f"{WORKER_RAY}/envFrom/0/configMapRef/name", "tierserve-runtime-5h2c9k8t7m"),
            ),
            "a ConfigMap mounted by subPath (trap 9)": (
                Edit(
                    f"{WORKER}/template/spec/volumes/0", {"name": "tmp", "configMap": {"name": "x"}}
                ),
                Edit(f"{WORKER_RAY}/volumeMounts/0/subPath", "settings.yaml"),
            ),
        },
        "proxies_wait_for_streams": {
            "an Ingress that ends streams after a minute (trap 7)": Fault(
                edit_of(
                    "Ingress",
                    "tierserve",
                    "metadata/annotations/nginx.ingress.kubernetes.io~1proxy-read-timeout",
                ),
                overlay="rtx4090",
            ),
            "an Ingress that holds events back (trap 7)": Fault(
                edit_of(
                    "Ingress",
                    "tierserve",
                    "metadata/annotations/nginx.ingress.kubernetes.io~1proxy-buffering",
                ),
                overlay="rtx4090",
            ),
            "a route that ends streams (trap 7)": edit_of(
                "HTTPRoute", "tierserve", "spec/rules/0/timeouts/request", "60s"
            ),
        },
        "gke_waits_and_finds_pods_healthy": {
            "GKE's load balancer with its 30 s (trap 23)": Fault(
                edit_of("GCPBackendPolicy", "tierserve", "spec/default/timeoutSec"),
                overlay="t4-gke",
            ),
            "GKE's load balancer asks for / (trap 23)": Fault(
                edit_of("HealthCheckPolicy", "tierserve", "spec/default/config", {"type": "HTTP"}),
                overlay="t4-gke",
            ),
        },
    }
)
