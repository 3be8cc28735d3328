"""Serve's gRPC port of each replica on 127.0.0.1, where all of the node's other ports are.

Serve binds it on every address of the machine, and whoever reaches that port sends pickles, which
run code. A worker imports this before it becomes a replica (`RAY_preload_python_modules`).
"""

import warnings

from serve_app.serving.ray_internals import patch_replica_grpc_port


def _install_here() -> None:
    with warnings.catch_warnings():
        # Ray's own, at its first import.
        warnings.simplefilter("ignore")
        installed = patch_replica_grpc_port()
    if not installed:
        warnings.warn("Serve's replica binds its gRPC port in another way now", stacklevel=2)


_install_here()
