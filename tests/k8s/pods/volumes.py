"""The volumes of a Pod, as folders of this machine."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.k8s.manifests import Object, quantity


@dataclass(frozen=True, slots=True)
class Mount:
    """`source` is None for memory of `size_bytes`."""

    path: str
    source: Path | None
    size_bytes: int = 0
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What volumes and variables are filled from: ConfigMaps and Secrets by name, and a folder for
    what is written. Claims outlive their Pods, emptyDirs do not."""

    folder: Path
    config_maps: Mapping[str, Mapping[str, str]]
    secrets: Mapping[str, Mapping[str, str]]

    def secret(self, name: str, key: str) -> str | None:
        return self.secrets.get(name, {}).get(key)


def mounts_of(pod: Object, container: Object, stored: Stored) -> Iterator[Mount]:
    """One for each of the container's volumeMounts. Memory is each container's own."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    group = pod["spec"].get("securityContext", {}).get("fsGroup", 0)
    for mount in container.get("volumeMounts", []):
        volume = volumes[mount["name"]]
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            size = int(quantity(volume["emptyDir"].get("sizeLimit") or 2**30))
            yield Mount(mount["mountPath"], None, size)
            continue
        folder = _folder(pod, volume, stored)
        for part in ("", mount.get("subPath", "")):
            (folder / part).mkdir(parents=True, exist_ok=True)
            _give_to_group(folder / part, group)
        source = folder / mount.get("subPath", "")
        yield Mount(mount["mountPath"], source, read_only=mount.get("readOnly", False))


def environment_of(container: Object, stored: Stored) -> dict[str, str]:
    """`envFrom`, then `env`, which wins; `$(NAME)` is filled from what stands before it."""
    env: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            env |= stored.config_maps[source["configMapRef"]["name"]]
        else:
            of_secret = source["secretRef"]
            optional = {} if of_secret.get("optional") else None
            found = stored.secrets.get(of_secret["name"], optional)
            if found is None:
                raise LookupError(f"no Secret {of_secret['name']}")
            env |= found
    for entry in container.get("env", []):
        value = entry.get("value", "") if "valueFrom" not in entry else _looked_up(entry, stored)
        if value is not None:
            env[entry["name"]] = expanded(value, env)
    return env


def expanded(text: str, env: Mapping[str, str]) -> str:
    """As Kubernetes fills `$(NAME)` in values, commands and arguments."""
    for name, value in env.items():
        text = text.replace(f"$({name})", value)
    return text


def _looked_up(entry: Mapping[str, Any], stored: Stored) -> str | None:
    reference = entry["valueFrom"]["secretKeyRef"]
    value = stored.secret(reference["name"], reference["key"])
    if value is None and not reference.get("optional"):
        raise LookupError(f"{entry['name']}: no Secret {reference['name']} with {reference['key']}")
    return value


def _folder(pod: Object, volume: Object, stored: Stored) -> Path:
    if "persistentVolumeClaim" in volume:
        return stored.folder / "claims" / volume["persistentVolumeClaim"]["claimName"]
    folder = stored.folder / "pods" / pod["metadata"]["name"] / volume["name"]
    if "emptyDir" in volume:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    files = (
        stored.config_maps[volume["configMap"]["name"]]
        if "configMap" in volume
        else stored.secrets[volume["secret"]["secretName"]]
    )
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def _give_to_group(folder: Path, group: int) -> None:
    shutil.chown(folder, group=group)
    folder.chmod(0o2775)
