"""Ray's label selectors: `T4`, `!T4`, `in(T4,L4)`, `!in(T4,L4)`, read as Ray reads them."""

import re
from collections.abc import Mapping, Sequence

# Ray sets it on each node whose driver it finds; Kubernetes operators set it by hand.
ACCELERATOR_LABEL = "ray.io/accelerator-type"
UNLABELLED = "a GPU without a label"
_SELECTOR = re.compile(r"(?P<no>!?)(?:in\((?P<several>[^)]*)\)|(?P<one>.*))")


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether the selector selects a node with these labels."""
    return all(_is_selected(labels.get(name), value) for name, value in selector.items())


def in_words(selector: Mapping[str, str]) -> str:
    """The selector for people: the accelerator type alone, other labels with their names."""
    words = [
        _value_in_words(value) if name == ACCELERATOR_LABEL else _label_in_words(name, value)
        for name, value in selector.items()
    ]
    return " with ".join(words) or "any node"


def accelerator_types(selectors: Sequence[Mapping[str, str]]) -> list[str]:
    """The accelerator types that selectors request, in their order; none of one that excludes."""
    found: list[str] = []
    for selector in selectors:
        if ACCELERATOR_LABEL in selector:
            negated, values = _parse(selector[ACCELERATOR_LABEL])
            found += [] if negated else values
    return list(dict.fromkeys(found))


def _is_selected(label: str | None, value: str) -> bool:
    negated, values = _parse(value)
    return (label in values) is not negated


def _label_in_words(name: str, value: str) -> str:
    negated, values = _parse(value)
    return ("no " if negated else "") + f"{name}={' or '.join(values)}"


def _value_in_words(value: str) -> str:
    negated, values = _parse(value)
    return ("anything but " if negated else "") + " or ".join(values)


def _parse(value: str) -> tuple[bool, list[str]]:
    found = _SELECTOR.fullmatch(value.strip())
    if found is None:
        return False, [value]
    several = found["several"]
    values = several.split(",") if several is not None else [found["one"]]
    return bool(found["no"]), [name.strip() for name in values]
