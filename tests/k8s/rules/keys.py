"""Rules for API keys: clients are asked for one, and keys outlive Pods."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.k8s.manifests import Manifests, pod_spec, ray_container

DATABASE, ANONYMOUS = "TIERSERVE_ACCESS__DATABASE", "TIERSERVE_ACCESS__ALLOW_ANONYMOUS"
COMMAND_LINE, SHARED_AS = "TIERSERVE_KEYS", "TIERSERVE_ACCESS__SERVICE"
SERVICE, SECRET = "tierserve-serve-svc", "tierserve-keys"
POSTGRES_PORT = 5432


def clients_come_with_keys(m: Manifests) -> Iterator[str]:
    """Routes lead to Serve's port, and the application behind it asks for a key (trap 8). Its
    metrics are not for clients."""
    routes = list(_routes(m))
    if routes and not _runtime(m).get(DATABASE):
        yield "clients come in, and nobody asks for a key"
    if routes and _runtime(m).get(ANONYMOUS, "false").lower() not in ("false", "0"):
        yield "clients without a key are served"
    for kind, paths, backends in routes:
        if backends != {SERVICE}:
            yield f"{kind} leads to {sorted(backends)}"
        if not paths or any(_leads_to_metrics(path, how) for path, how in paths):
            shown = [path for path, _ in paths] or "all paths"
            yield f"{kind}: {shown} show the metrics to clients"


def keys_outlive_pods(m: Manifests) -> Iterator[str]:
    """SQLite is on a volume of the head's, which two clusters do not share; PostgreSQL is reached
    from there, with a password that is not in the address, by both clusters of an upgrade."""
    database = _runtime(m).get(DATABASE)
    if database is None:
        return
    if _runtime(m).get(COMMAND_LINE) != database:
        yield f"`tierserve keys` in the head Pod writes to {_runtime(m).get(COMMAND_LINE)}"
    if "://" in database:
        yield from _of_postgres(m, database)
    else:
        yield from _of_sqlite(m, database)


def _of_sqlite(m: Manifests, path: str) -> Iterator[str]:
    mounts = {
        mount["mountPath"]: mount["name"]
        for mount in ray_container(m.head)["volumeMounts"]
        if path.startswith(f"{mount['mountPath']}/")
    }
    volumes = {volume["name"]: volume for volume in pod_spec(m.head)["volumes"]}
    claims = [volumes[name].get("persistentVolumeClaim") for name in mounts.values()]
    if not any(claims):
        yield f"{path} goes with the head's Pod"
    for claim in filter(None, claims):
        made = m.named("PersistentVolumeClaim", claim["claimName"])
        if made is not None and made["spec"]["accessModes"] != ["ReadWriteOnce"]:
            yield "SQLite on a file system of the network"
    if m.rayservice["spec"]["upgradeStrategy"]["type"] != "None":
        yield "two clusters of an upgrade need the one volume"


def _of_postgres(m: Manifests, url: str) -> Iterator[str]:
    if urlsplit(url).password:
        yield "the password is in the ConfigMap"
    upgrade = m.rayservice["spec"]["upgradeStrategy"]["type"]
    if upgrade != "None" and not _runtime(m).get(SHARED_AS):
        yield "the second cluster of an upgrade is refused the database"
    sources = ray_container(m.head).get("envFrom", [])
    if not any(source.get("secretRef", {}).get("name") == SECRET for source in sources):
        yield f"the head does not get the Secret {SECRET}"
    ports = {
        port["port"]
        for policy in m.all("NetworkPolicy")
        if policy["spec"]["podSelector"].get("matchLabels") == {"ray.io/node-type": "head"}
        for rule in policy["spec"].get("egress", [])
        for port in rule.get("ports", [])
    }
    if POSTGRES_PORT not in ports:
        yield "the head does not reach PostgreSQL"


def _leads_to_metrics(path: str, how: str) -> bool:
    """`how` is the path's type: the page's `/` is Exact."""
    return path == "/metrics" or (path == "/" and how != "Exact")


def _routes(m: Manifests) -> Iterator[tuple[str, list[tuple[str, str]], set[str]]]:
    """Of each route its kind, its paths with their types, and the Services that it leads to."""
    for route in m.all("HTTPRoute"):
        for rule in route["spec"]["rules"]:
            matched = [match["path"] for match in rule.get("matches", [])]
            paths = [(path["value"], path.get("type", "PathPrefix")) for path in matched]
            yield "HTTPRoute", paths, {backend["name"] for backend in rule["backendRefs"]}
    for ingress in m.all("Ingress"):
        for path in (p for rule in ingress["spec"]["rules"] for p in rule["http"]["paths"]):
            how = path.get("pathType", "Prefix")
            yield "Ingress", [(path["path"], how)], {path["backend"]["service"]["name"]}


def _runtime(m: Manifests) -> dict[str, str]:
    runtime = m.named("ConfigMap", "tierserve-runtime")
    return {} if runtime is None else runtime["data"]
