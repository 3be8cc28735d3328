"""Faults of security and network."""

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

_SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "tierserve-keys", "namespace": "tierserve"},
}
_OPEN_DASHBOARD = {"from": [{"namespaceSelector": {}}], "ports": [{"port": 8265}]}

SECURITY_MUTANTS = (
    Mutant(
        "a worker that may run as root",
        "pods_meet_the_restricted_standard",
        (
            Edit(f"{WORKER}/template/spec/securityContext/runAsNonRoot", False),
            Edit(f"{WORKER_RAY}/securityContext/runAsNonRoot", False),
        ),
    ),
    Mutant(
        "an autoscaler sidecar without a security context (trap 18)",
        "pods_meet_the_restricted_standard",
        (Edit(f"{CLUSTER}/autoscalerOptions/securityContext"),),
    ),
    Mutant(
        "a folder of the node for the cache",
        "pods_meet_the_restricted_standard",
        (
            Edit(
                f"{WORKER}/template/spec/volumes/3",
                {"name": "cache", "hostPath": {"path": "/var/cache"}},
            ),
        ),
    ),
    Mutant(
        "a namespace that enforces nothing",
        "pods_meet_the_restricted_standard",
        edit_of("Namespace", "tierserve", "metadata/labels", {}),
    ),
    Mutant(
        "Redis keeps its capabilities",
        "pods_meet_the_restricted_standard",
        edit_of(
            "StatefulSet",
            "tierserve-redis",
            "spec/template/spec/containers/0/securityContext/capabilities",
        ),
    ),
    Mutant(
        "a root file system that can be written to",
        "file_systems_are_read_only_with_room_to_write",
        (Edit(f"{WORKER_RAY}/securityContext/readOnlyRootFilesystem", False),),
    ),
    Mutant(
        "no room for the autoscaler to write (trap 18)",
        "file_systems_are_read_only_with_room_to_write",
        (Edit(f"{CLUSTER}/autoscalerOptions/volumeMounts"),),
    ),
    Mutant(
        "no token for the head's autoscaler (trap 2)",
        "only_the_head_talks_to_the_api_server",
        (Edit(f"{HEAD}/template/spec/automountServiceAccountToken", False),),
    ),
    Mutant(
        "a token for the workers (trap 2)",
        "only_the_head_talks_to_the_api_server",
        (Edit(f"{WORKER}/template/spec/automountServiceAccountToken"),),
    ),
    Mutant(
        "an account that nobody makes",
        "only_the_head_talks_to_the_api_server",
        (Edit(f"{HEAD}/template/spec/serviceAccountName", "ray"),),
    ),
    Mutant(
        "workers without the token mode (trap 8)",
        "auth_mode_is_explicit",
        (Edit(f"{WORKER_RAY}/env/0/value", "disabled"),),
    ),
    Mutant(
        "no mode in the init container (trap 11)",
        "auth_mode_is_explicit",
        (Edit(f"{CLUSTER}/authOptions"), Edit(f"{WORKER_RAY}/env/0")),
    ),
    Mutant(
        "the sidecar has the mode twice (trap 8)",
        "auth_mode_is_explicit",
        (Edit(f"{CLUSTER}/autoscalerOptions/env/-", {"name": "RAY_AUTH_MODE", "value": "token"}),),
    ),
    Mutant(
        "Ray's ports without a token (trap 8)",
        "ray_ports_need_the_token",
        (Edit(f"{CLUSTER}/authOptions"),),
    ),
    Mutant("a Secret in the manifests", "no_secret_is_written_down", (), added=_SECRET),
    Mutant(
        "the hub's token as a plain value",
        "no_secret_is_written_down",
        (Edit(f"{WORKER_RAY}/env/5", {"name": "HF_TOKEN", "value": "hf_x"}),),
    ),
    Mutant(
        "a token in the Serve config, which the operator logs",
        "no_secret_is_written_down",
        config_text(
            "num_cpus: 0.1", "num_cpus: 0.1\n          runtime_env: {env_vars: {HF_TOKEN: x}}"
        ),
    ),
    Mutant(
        "/dev/shm left to the operator (trap 19)",
        "shared_memory_is_bounded",
        (Edit(f"{WORKER_RAY}/volumeMounts/2"),),
    ),
    Mutant(
        "an object store as large as /dev/shm",
        "shared_memory_is_bounded",
        (Edit(f"{WORKER}/rayStartParams/object-store-memory", "4000000000"),),
    ),
    Mutant(
        "a /dev/shm of nearly all memory",
        "shared_memory_is_bounded",
        (Edit(f"{WORKER}/template/spec/volumes/2/emptyDir/sizeLimit", "8Gi"),),
    ),
)

NETWORK_MUTANTS = (
    Mutant(
        "the dashboard is open to every Pod",
        "ray_is_closed_to_all_but_its_own",
        edit_of("NetworkPolicy", "tierserve-ray", "spec/ingress/-", _OPEN_DASHBOARD),
    ),
    Mutant(
        "Serve's port is open to everyone",
        "ray_is_closed_to_all_but_its_own",
        edit_of("NetworkPolicy", "tierserve-ray", "spec/ingress/-", {"ports": []}),
    ),
    Mutant(
        "the operator does not reach the agent",
        "ray_is_closed_to_all_but_its_own",
        edit_of("NetworkPolicy", "tierserve-ray", "spec/ingress/1/ports/2"),
    ),
    Mutant(
        "no policy at all",
        "ray_is_closed_to_all_but_its_own",
        edit_of("NetworkPolicy", "tierserve-ray", "spec/podSelector/matchLabels", {"app": "x"}),
    ),
    Mutant(
        "clients come in and keys are off (trap 8)",
        "clients_come_with_keys",
        edit_of("ConfigMap", "tierserve-runtime", "data/TIERSERVE_ACCESS__DATABASE"),
    ),
    Mutant(
        "clients without a key are served",
        "clients_come_with_keys",
        edit_of("ConfigMap", "tierserve-runtime", "data/TIERSERVE_ACCESS__ALLOW_ANONYMOUS", "true"),
    ),
    Mutant(
        "a route to another Service than Serve's",
        "clients_come_with_keys",
        edit_of("HTTPRoute", "tierserve", "spec/rules/0/backendRefs/0/name", "tierserve-redis"),
    ),
    Mutant(
        "an Ingress that shows the metrics",
        "clients_come_with_keys",
        edit_of("Ingress", "tierserve", "spec/rules/0/http/paths/0/path", "/"),
        overlay="t4-eks",
    ),
    Mutant(
        "keys that go with the head's Pod",
        "keys_outlive_pods",
        edit_of(
            "ConfigMap", "tierserve-runtime", "data/TIERSERVE_ACCESS__DATABASE", "/tmp/keys.sqlite"
        ),
    ),
    Mutant(
        "a command line that writes keys elsewhere",
        "keys_outlive_pods",
        edit_of("ConfigMap", "tierserve-runtime", "data/TIERSERVE_KEYS"),
    ),
    Mutant(
        "SQLite over NFS",
        "keys_outlive_pods",
        edit_of("PersistentVolumeClaim", "tierserve-keys", "spec/accessModes/0", "ReadWriteMany"),
    ),
    Mutant(
        "two clusters with one volume of keys",
        "keys_outlive_pods",
        (Edit("spec/upgradeStrategy/type", "NewCluster"),),
    ),
    Mutant(
        "the database's password in a ConfigMap",
        "keys_outlive_pods",
        edit_of(
            "ConfigMap",
            "tierserve-runtime",
            "data/TIERSERVE_ACCESS__DATABASE",
            "://tierserve:x@",
            "://tierserve@",
        ),
        overlay="t4-eks",
    ),
    Mutant(
        "two clusters of an upgrade that do not share the keys",
        "keys_outlive_pods",
        edit_of("ConfigMap", "tierserve-runtime", "data/TIERSERVE_ACCESS__SERVICE"),
        overlay="t4-eks",
    ),
    Mutant(
        "a head without the database's password",
        "keys_outlive_pods",
        (Edit(f"{HEAD_RAY}/envFrom/1"),),
        overlay="t4-eks",
    ),
    Mutant(
        "a head that does not reach PostgreSQL",
        "keys_outlive_pods",
        edit_of("NetworkPolicy", "tierserve-head-to-postgres", "spec/egress", []),
        overlay="t4-eks",
    ),
    Mutant(
        "a sidecar before Ray's container",
        "ray_comes_first",
        (Edit(f"{WORKER_RAY}/name", "logs"),),
    ),
    Mutant(
        "an image without a tag", "images_are_pinned", (Edit(f"{HEAD_RAY}/image", "tierserve"),)
    ),
    Mutant(
        "head and workers of different releases",
        "images_are_pinned",
        (Edit(f"{HEAD_RAY}/image", "tierserve:0.0.9-gpu"),),
    ),
    Mutant(
        "a ConfigMap without a namespace (trap 12)",
        "everything_is_in_one_namespace",
        edit_of("ConfigMap", "tierserve-runtime", "metadata/namespace"),
    ),
    Mutant(
        "a claim of another name",
        "names_lead_somewhere",
        edit_of("PersistentVolumeClaim", "tierserve-cache", "metadata/name", "tierserve-weights"),
    ),
    Mutant(
        "a route to a Service of another name",
        "names_lead_somewhere",
        edit_of("HTTPRoute", "tierserve", "spec/rules/0/backendRefs/0/name", "tierserve"),
    ),
)
