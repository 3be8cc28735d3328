"""Serve's gRPC port of each replica on 127.0.0.1, where all of the node's other ports are.

Ray 2.60 (`~=2.60.0`): `Replica._on_initialized` binds `[::]:0` whatever the node's address is, and
whoever reaches that port sends pickles, which run code. To be removed when Serve asks for the
node's address there, as Ray's own servers do.

A worker imports this before it becomes a replica (`RAY_preload_python_modules`).
"""

import functools
import warnings
from typing import Any

_EVERYWHERE = "[::]:0"


def install(module: Any) -> bool:
    """Whether replicas of this process bind that port where their node's address is 127.0.0.1.
    `module` is Serve's, of the replica."""
    bind = getattr(module, "add_port_to_grpc_server", None)
    if bind is None:
        return False
    if not hasattr(bind, "__wrapped__"):
        module.add_port_to_grpc_server = _near(bind)
    return True


def _near(bind: Any) -> Any:
    @functools.wraps(bind)
    def bind_near(server: Any, address: str) -> Any:
        import ray

        is_near = address == _EVERYWHERE and ray.util.get_node_ip_address() == "127.0.0.1"
        return bind(server, "127.0.0.1:0" if is_near else address)

    return bind_near


def _install_here() -> None:
    with warnings.catch_warnings():
        # Ray's own, at its first import.
        warnings.simplefilter("ignore")
        from ray.serve._private import replica
    if not install(replica):
        warnings.warn("Serve's replica binds its gRPC port in another way now", stacklevel=2)


_install_here()
