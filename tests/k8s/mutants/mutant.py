"""What a mutant is: a copy of an overlay with one fault, and the rule that must find it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.k8s.manifests import Manifests

REMOVE = object()


@dataclass(frozen=True, slots=True)
class Edit:
    """Puts `value` at `path` (keys joined by `/`, `~1` for a slash in a key) of an object, or takes
    away what is there. In a text, `old` becomes `value`."""

    path: str
    value: Any = REMOVE
    old: str | None = None
    kind: str = "RayService"
    name: str = "tierserve"

    def apply(self, m: Manifests) -> None:
        """Changes the object. Raises LookupError where the path leads nowhere."""
        target: Any = self._object(m)
        *way, last = [step.replace("~1", "/") for step in self.path.split("/")]
        for step in way:
            target = target[int(step) if isinstance(target, list) else step]
        key: Any = int(last) if isinstance(target, list) and last != "-" else last
        if self.old is not None:
            if self.old not in target[key]:
                raise LookupError(f"{self.path} has no {self.old!r}")
            target[key] = target[key].replace(self.old, self.value)
        elif self.value is REMOVE:
            del target[key]
        elif last == "-":
            target.append(self.value)
        else:
            target[key] = self.value

    def _object(self, m: Manifests) -> Any:
        """By name, to which kustomize may have added a hash."""
        names = {each["metadata"]["name"]: each for each in m.all(self.kind)}
        pattern = rf"{re.escape(self.name)}(-[a-z0-9]{{10}})?"
        found = [each for name, each in names.items() if re.fullmatch(pattern, name)]
        if len(found) != 1:
            raise LookupError(f"{len(found)} of {self.kind} {self.name} among {sorted(names)}")
        return found[0]


@dataclass(frozen=True, slots=True)
class Mutant:
    """`rule` must report `overlay` once the edits are made and `added` is there."""

    fault: str
    rule: str
    edits: tuple[Edit, ...]
    overlay: str = "mixed"
    added: Mapping[str, Any] | None = None

    def of(self, m: Manifests) -> Manifests:
        """The changed copy."""
        changed = m.copy()
        for edit in self.edits:
            edit.apply(changed)
        if self.added is not None:
            changed.objects.append(dict(self.added))
        return changed


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an overlay, where it is more than an edit of `mixed`."""

    edits: "Edit | tuple[Edit, ...]" = ()
    overlay: str = "mixed"
    added: Mapping[str, Any] | None = None


def mutants_of(
    faults: Mapping[str, Mapping[str, Edit | tuple[Edit, ...] | Fault]],
) -> tuple[Mutant, ...]:
    """By the rule that must find it, and by what it is."""
    return tuple(
        Mutant(name, rule, edits, fault.overlay, fault.added)
        for rule, of_rule in faults.items()
        for name, given in of_rule.items()
        for fault in (given if isinstance(given, Fault) else Fault(given),)
        for edits in ((fault.edits,) if isinstance(fault.edits, Edit) else fault.edits,)
    )


CLUSTER = "spec/rayClusterConfig"
HEAD = f"{CLUSTER}/headGroupSpec"
WORKER = f"{CLUSTER}/workerGroupSpecs/0"
# Of the overlay `mixed`; the others have one group of GPUs less.
WEB = f"{CLUSTER}/workerGroupSpecs/2"
HEAD_RAY = f"{HEAD}/template/spec/containers/0"
WORKER_RAY = f"{WORKER}/template/spec/containers/0"


def edit_of(kind: str, name: str, path: str, value: Any = REMOVE, old: str | None = None) -> Edit:
    """One edit of another object than the RayService."""
    return Edit(path, value, old, kind, name)


def config_text(old: str, new: str) -> Edit:
    """One edit of the Serve config's text."""
    return Edit("spec/serveConfigV2", new, old=old)
