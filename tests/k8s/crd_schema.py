"""What the API server does with a custom resource: defaults, unknown fields, types, keys, CEL.

After k8s.io/apiextensions-apiserver for structural schemas. Transition rules (`oldSelf`) say
nothing about a new object and are left out. `kubectl apply` refuses unknown fields as this does; a
plain PUT would drop them.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import yaml
from celpy.adapter import json_to_cel

from tests.k8s.manifests import REPO

VERSION = "v1.7.0"
FOLDER = Path(os.environ.get("KUBERAY_CRDS") or REPO / ".cache" / f"kuberay-{VERSION}")
MISSING = (
    f"no KubeRay CRDs in {FOLDER}: `make test-k8s` fetches them where there is a network; or set "
    f"KUBERAY_CRDS to a folder with ray-operator/config/crd/bases of KubeRay {VERSION}"
)

Schema = Mapping[str, Any]


def available() -> bool:
    """Whether the CRD of a RayService is at hand."""
    return (FOLDER / "ray.io_rayservices.yaml").is_file()


@cache
def load_schema(plural: str = "rayservices") -> Schema:
    """The schema of the stored version."""
    text = (FOLDER / f"ray.io_{plural}.yaml").read_text()
    versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
    stored = next(version for version in versions if version["storage"])
    return stored["schema"]["openAPIV3Schema"]


def faults(schema: Schema, resource: dict[str, Any]) -> Iterator[str]:
    """Why the API server refuses the object; fills in its defaults. Nothing if it takes it."""
    whole = {**schema, "properties": {**schema["properties"], "metadata": {"type": "object"}}}
    metadata = resource["metadata"]
    body = {**resource, "metadata": {}}
    yield from _unknown(whole, body, "")
    _fill(whole, body)
    yield from _types(whole, body)
    yield from _lists(whole, body, "")
    yield from _expressions(whole, body, "")
    resource.update({**body, "metadata": metadata})


def _fill(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = inner["default"]
    for _, inner, part in _parts(schema, value, ""):
        _fill(inner, part)


def _unknown(schema: Schema, value: Any, path: str) -> Iterator[str]:
    known = schema.get("properties", {})
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(value, dict) and schema.get("type") == "object" and not free:
        yield from (f"{path}.{name}: unknown field" for name in value if name not in known)
    for inner_path, inner, part in _parts(schema, value, path):
        yield from _unknown(inner, part, inner_path)


def _types(schema: Schema, value: Any) -> Iterator[str]:
    for error in jsonschema.Draft202012Validator(_plain(schema)).iter_errors(value):
        yield f"{error.json_path.removeprefix('$')}: {error.message[:200]}"


def _plain(schema: Any) -> Any:
    """The same for jsonschema: int-or-string and nullable are Kubernetes' own words."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(inner) for key, inner in schema.items() if key != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        plain = {k: v for k, v in plain.items() if k not in ("anyOf", "type")}
        plain["type"] = ["integer", "string"]
    if schema.get("nullable") is True and isinstance(plain.get("type"), str):
        plain["type"] = [plain["type"], "null"]
    return plain


def _lists(schema: Schema, value: Any, path: str) -> Iterator[str]:
    """Keys of a map in form of a list are there, and each combination once."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if keys and isinstance(value, list):
        entries = [tuple(str(each.get(key)) for key in keys) for each in value]
        for entry in {entry for entry in entries if entries.count(entry) > 1}:
            yield f"{path}: {', '.join(entry)} is there {entries.count(entry)} times"
    for inner_path, inner, part in _parts(schema, value, path):
        yield from _lists(inner, part, inner_path)


def _expressions(schema: Schema, value: Any, path: str) -> Iterator[str]:
    for validation in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in validation["rule"] and not _holds(validation["rule"], value):
            yield f"{path}: {validation['message']}"
    for inner_path, inner, part in _parts(schema, value, path):
        yield from _expressions(inner, part, inner_path)


def _holds(rule: str, value: Any) -> bool:
    environment = celpy.Environment()
    return bool(
        environment.program(environment.compile(rule)).evaluate({"self": json_to_cel(value)})
    )


def _parts(schema: Schema, value: Any, path: str) -> Iterator[tuple[str, Schema, Any]]:
    """The values inside with their schemas."""
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        yield from ((f"{path}[{i}]", schema["items"], each) for i, each in enumerate(value))
    elif isinstance(value, dict):
        others = schema.get("additionalProperties")
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name, others)
            if isinstance(inner, dict):
                yield f"{path}.{name}", inner, part
