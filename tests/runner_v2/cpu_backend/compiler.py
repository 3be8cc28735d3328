"""Triton's name for a backend that compiles for CPUs. Under the interpreter nothing is compiled; by
this name vLLM's CPU build knows that it may use Triton."""

from typing import Any, NoReturn

from triton.backends.compiler import BaseBackend


class CpuBackend(BaseBackend):
    @staticmethod
    def supports_target(target: Any) -> bool:
        return False

    def hash(self) -> str:
        return "interpreted"

    def parse_options(self, options: dict[str, Any]) -> NoReturn:
        raise NotImplementedError

    def add_stages(self, stages: dict[str, Any], options: object, language: Any = None) -> NoReturn:
        raise NotImplementedError

    def load_dialects(self, context: Any) -> NoReturn:
        raise NotImplementedError

    def get_module_map(self) -> NoReturn:
        raise NotImplementedError
