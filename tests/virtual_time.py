"""An event loop whose clock jumps to the next timer: waits cost nothing and repeat exactly."""

import asyncio
import functools
import inspect
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for a timer it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits and no timer is set: the test would hang")
        self.now_s += timeout
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run_virtual(test: Coroutine[Any, Any, T]) -> T:
    """Run `test` in virtual time, which begins at 0; `now_s()` reads it."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(test)


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that runs in virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    # pytest would see a coroutine behind the wrapper and run it in a loop of its own; it still has
    # to see which fixtures the test takes.
    del run.__wrapped__  # pyright: ignore
    run.__signature__ = inspect.signature(test)  # pyright: ignore
    return run


def now_s() -> float:
    return asyncio.get_running_loop().time()
