"""What an edit changes in the cluster: a live setting nothing but the Serve config, so that no Pod
is made anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.k8s.manifests import Manifests, render


def test_user_config_changes_the_serve_config_only(
    tree: Path, rendered: Callable[[str], Manifests]
) -> None:
    _edit(tree / "deploy" / "t4.yaml", "max_new_tokens: 1024", "max_new_tokens: 512")
    before, after = rendered("t4-eks"), render("t4-eks", tree)
    assert _changed(before.objects, after.objects) == [["RayService", "spec", "serveConfigV2"]]


def test_runtime_env_changes_the_config_map_only(
    tree: Path, rendered: Callable[[str], Manifests]
) -> None:
    _edit(
        tree / "deploy" / "runtime.env", "CONTROL_LOOP_INTERVAL_S=0.25", "CONTROL_LOOP_INTERVAL_S=1"
    )
    changed = _changed(rendered("t4-eks").objects, render("t4-eks", tree).objects)
    assert changed == [["ConfigMap", "data", "RAY_SERVE_CONTROL_LOOP_INTERVAL_S"]]


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _changed(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[list[str]]:
    paths: list[list[str]] = []
    for old, new in zip(before, after, strict=True):
        paths += [[old["kind"], *path] for path in _differences(old, new)]
    return paths


def _differences(old: Any, new: Any) -> list[list[str]]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [[]]
    keys = old.keys() | new.keys()
    return [[k, *p] for k in sorted(keys) for p in _differences(old.get(k), new.get(k))]
