"""What a patch of vLLM is: what it changes, of which versions, why, and when it can go."""

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from types import ModuleType
from typing import Any

from packaging.specifiers import SpecifierSet

log = logging.getLogger(__name__)

# What stands in vLLM's place carries the name of its patch, so that it is put there once.
_MARK = "__tierserve_patch__"
# At vLLM's package, of which there is one in a process: what became of each patch there.
_RECORD = "__tierserve_patches__"


class PatchError(Exception):
    """vLLM is not built as a patch expects; the message says in what."""


@dataclass(frozen=True, slots=True)
class Patch:
    """`versions` is a specifier of the vLLM releases whose code was read for it. `upstream` is the
    report or pull request, or the file and function where none is known; `remove_when` is what must
    be true of a release for the patch to go.

    `replaces` are the names that are looked up before anything is changed, and `relies_on` further
    ones that exist in instances only, both as `module:Class.attribute`: tests/test_vllm_names.py
    finds them in vLLM's wheels. `apply` makes the change, to what `install` is given, and raises
    where vLLM is built in another way.
    """

    name: str
    versions: str
    upstream: str
    remove_when: str
    apply: Callable[..., None]
    replaces: tuple[str, ...] = ()
    relies_on: tuple[str, ...] = ()

    def install(self, *parts: Any) -> bool:
        """Change this process' vLLM, or those `parts` of it; a second time changes nothing more.
        False where this vLLM is of another version or built in another way: it is left as it is
        then. What came of it is logged once."""
        import vllm

        problem = self._problem(vllm.__version__, parts)
        outcomes = outcomes_in(vllm)
        if outcomes.get(self.name) != (problem is None):
            outcomes[self.name] = problem is None
            self._log(vllm.__version__, problem)
        return problem is None

    def _problem(self, version: str, parts: tuple[Any, ...]) -> str | None:
        """Why vLLM stays as it is; None once it is patched."""
        if not SpecifierSet(self.versions).contains(version, prereleases=True):
            return f"it is for vLLM {self.versions}"
        try:
            for name in self.replaces:
                find(name)
            self.apply(*parts)
        except Exception as error:  # noqa: BLE001  (whatever another build makes of it)
            return f"{type(error).__name__}: {error}"
        return None

    def _log(self, version: str, problem: str | None) -> None:
        facts = {"phase": "start", "patch": self.name, "vllm": version}
        if problem is None:
            log.info("vLLM patch installed", extra=facts)
        else:
            log.warning("vLLM patch not installed", extra={**facts, "reason": problem})


def outcomes_in(vllm: ModuleType) -> dict[str, bool]:
    """Of each patch that was tried in this process, by name, whether it is installed."""
    return vars(vllm).setdefault(_RECORD, {})


def find(name: str) -> Any:
    """What `module:Class.attribute` names; raises ImportError or AttributeError."""
    module, _, path = name.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))


def is_replaced(current: Any) -> bool:
    """Whether what stands there now is a patch's."""
    return _MARK in getattr(current, "__dict__", {})


def replace(
    owner: Any,
    attribute: str,
    make: Callable[[Any], Any],
    *,
    as_: Callable[[Any], Any] = lambda made: made,
) -> None:
    """Put what `make` makes of an attribute in its place, unless it stands there already. `as_`
    wraps it for a class, as `staticmethod` does."""
    current = getattr(owner, attribute)
    if is_replaced(current):
        return
    made = make(current)
    setattr(made, _MARK, make.__name__)
    setattr(owner, attribute, as_(made))
