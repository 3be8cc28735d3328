"""Faults of security and network."""

from tests.k8s.mutants.mutant import (
    CLUSTER,
    HEAD,
    HEAD_RAY,
    WORKER,
    WORKER_RAY,
    Edit,
    Fault,
    config_text,
    edit_of,
    mutants_of,
)

_SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "tierserve-keys", "namespace": "tierserve"},
}
_OPEN_DASHBOARD = {"from": [{"namespaceSelector": {}}], "ports": [{"port": 8265}]}

SECURITY_MUTANTS = mutants_of(
    {
        "pods_meet_the_restricted_standard": {
            "a worker that may run as root": (
                Edit(f"{WORKER}/template/spec/securityContext/runAsNonRoot", False),
                Edit(f"{WORKER_RAY}/securityContext/runAsNonRoot", False),
            ),
            "an autoscaler sidecar without a security context (trap 18)": Edit(
                f"{CLUSTER}/autoscalerOptions/securityContext"
            ),
            "a folder of the node for the cache": Edit(
                f"{WORKER}/template/spec/volumes/3",
                {"name": "cache", "hostPath": {"path": "/var/cache"}},
            ),
            "a namespace that enforces nothing": edit_of(
                "Namespace", "tierserve", "metadata/labels", {}
            ),
            "Redis keeps its capabilities": edit_of(
                "StatefulSet",
                "tierserve-redis",
                "spec/template/spec/containers/0/securityContext/capabilities",
            ),
        },
        "file_systems_are_read_only_with_room_to_write": {
            "a root file system that can be written to": Edit(
                f"{WORKER_RAY}/securityContext/readOnlyRootFilesystem", False
            ),
            "no room for the autoscaler to write (trap 18)": Edit(
                f"{CLUSTER}/autoscalerOptions/volumeMounts"
            ),
        },
        "only_the_head_talks_to_the_api_server": {
            "no token for the head's autoscaler (trap 2)": Edit(
                f"{HEAD}/template/spec/automountServiceAccountToken", False
            ),
            "a token for the workers (trap 2)": Edit(
                f"{WORKER}/template/spec/automountServiceAccountToken"
            ),
            "an account that nobody makes": Edit(f"{HEAD}/template/spec/serviceAccountName", "ray"),
        },
        "auth_mode_is_explicit": {
            "workers without the token mode (trap 8)": Edit(
                f"{WORKER_RAY}/env/0/value", "disabled"
            ),
            "no mode in the init container (trap 11)": (
                Edit(f"{CLUSTER}/authOptions"),
                Edit(f"{WORKER_RAY}/env/0"),
            ),
            "the sidecar has the mode twice (trap 8)": Edit(
                f"{CLUSTER}/autoscalerOptions/env/-", {"name": "RAY_AUTH_MODE", "value": "token"}
            ),
        },
        "ray_ports_need_the_token": {
            "Ray's ports without a token (trap 8)": Edit(f"{CLUSTER}/authOptions"),
        },
        "no_secret_is_written_down": {
            "a Secret in the manifests": Fault(added=_SECRET),
            "the hub's token as a plain value": Edit(
                f"{WORKER_RAY}/env/5", {"name": "HF_TOKEN", "value": "hf_x"}
            ),
            "a token in the Serve config, which the operator logs": config_text(
                "num_cpus: 0.1", "num_cpus: 0.1\n          runtime_env: {env_vars: {HF_TOKEN: x}}"
            ),
        },
        "shared_memory_is_bounded": {
            "/dev/shm left to the operator (trap 19)": Edit(f"{WORKER_RAY}/volumeMounts/2"),
            "an object store as large as /dev/shm": Edit(
                f"{WORKER}/rayStartParams/object-store-memory", "4000000000"
            ),
            "a /dev/shm of nearly all memory": Edit(
                f"{WORKER}/template/spec/volumes/2/emptyDir/sizeLimit", "8Gi"
            ),
        },
    }
)

NETWORK_MUTANTS = mutants_of(
    {
        "ray_is_closed_to_all_but_its_own": {
            "the dashboard is open to every Pod": edit_of(
                "NetworkPolicy", "tierserve-ray", "spec/ingress/-", _OPEN_DASHBOARD
            ),
            "Serve's port is open to everyone": edit_of(
                "NetworkPolicy", "tierserve-ray", "spec/ingress/-", {"ports": []}
            ),
            "the operator does not reach the agent": edit_of(
                "NetworkPolicy", "tierserve-ray", "spec/ingress/1/ports/2"
            ),
            "no policy at all": edit_of(
                "NetworkPolicy", "tierserve-ray", "spec/podSelector/matchLabels", {"app": "x"}
            ),
        },
        "clients_come_with_keys": {
            "clients come in and keys are off (trap 8)": edit_of(
                "ConfigMap", "tierserve-runtime", "data/TIERSERVE_ACCESS__DATABASE"
            ),
            "clients without a key are served": edit_of(
                "ConfigMap", "tierserve-runtime", "data/TIERSERVE_ACCESS__ALLOW_ANONYMOUS", "true"
            ),
            "a route to another Service than Serve's": edit_of(
                "HTTPRoute", "tierserve", "spec/rules/0/backendRefs/0/name", "tierserve-redis"
            ),
            "an Ingress that shows the metrics": Fault(
                edit_of("Ingress", "tierserve", "spec/rules/0/http/paths/0/path", "/"),
                overlay="t4-eks",
            ),
        },
        "keys_outlive_pods": {
            "keys that go with the head's Pod": edit_of(
                "ConfigMap",
                "tierserve-runtime",
                "data/TIERSERVE_ACCESS__DATABASE",
                "/tmp/keys.sqlite",
            ),
            "a command line that writes keys elsewhere": edit_of(
                "ConfigMap", "tierserve-runtime", "data/TIERSERVE_KEYS"
            ),
            "SQLite over NFS": edit_of(
                "PersistentVolumeClaim", "tierserve-keys", "spec/accessModes/0", "ReadWriteMany"
            ),
            "two clusters with one volume of keys": Edit("spec/upgradeStrategy/type", "NewCluster"),
            "the database's password in a ConfigMap": Fault(
                edit_of(
                    "ConfigMap",
                    "tierserve-runtime",
                    "data/TIERSERVE_ACCESS__DATABASE",
                    "://tierserve:x@",
                    "://tierserve@",
                ),
                overlay="t4-eks",
            ),
            "two clusters of an upgrade that do not share the keys": Fault(
                edit_of("ConfigMap", "tierserve-runtime", "data/TIERSERVE_ACCESS__SERVICE"),
                overlay="t4-eks",
            ),
            "a head without the database's password": Fault(
                Edit(f"{HEAD_RAY}/envFrom/1"), overlay="t4-eks"
            ),
            "a head that does not reach PostgreSQL": Fault(
                edit_of("NetworkPolicy", "tierserve-head-to-postgres", "spec/egress", []),
                overlay="t4-eks",
            ),
        },
        "ray_comes_first": {
            "a sidecar before Ray's container": Edit(f"{WORKER_RAY}/name", "logs"),
        },
        "images_are_pinned": {
            "an image without a tag": Edit(f"{HEAD_RAY}/image", "tierserve"),
            "head and workers of different releases": Edit(
                f"{HEAD_RAY}/image", "tierserve:0.0.9-gpu"
            ),
        },
        "everything_is_in_one_namespace": {
            "a ConfigMap without a namespace (trap 12)": edit_of(
                "ConfigMap", "tierserve-runtime", "metadata/namespace"
            ),
        },
        "names_lead_somewhere": {
            "a claim of another name": edit_of(
                "PersistentVolumeClaim", "tierserve-cache", "metadata/name", "tierserve-weights"
            ),
            "a route to a Service of another name": edit_of(
                "HTTPRoute", "tierserve", "spec/rules/0/backendRefs/0/name", "tierserve"
            ),
        },
    }
)
