"""A bridge, and one network namespace for each Pod on it. No way leads to any other network.

Names are a hosts file that all Pods mount, written in place so that each sees a change at once.
"""

import ipaddress
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "tsk8s"
NETWORK = ipaddress.ip_network("10.231.77.0/24")


class Network:
    """Addresses and names of Pods and Services. Use `network()`."""

    def __init__(self, hosts: Path) -> None:
        self.hosts = hosts
        self._free = NETWORK.hosts()
        self._gateway = next(self._free)
        self._names: dict[str, str] = {}
        self._namespaces: dict[str, str] = {}
        self._services: dict[str, str] = {}

    def add_pod(self, pod: str) -> tuple[str, str]:
        """A namespace of its own for the Pod: its name, and an address never used before."""
        address = str(next(self._free))
        namespace = f"{PREFIX}{address.rpartition('.')[2]}"
        _ip("netns", "add", namespace)
        self._namespaces[pod] = namespace
        _ip("link", "add", namespace, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", namespace, "master", PREFIX, "up")
        inside = ("-n", namespace)
        _ip(*inside, "addr", "add", f"{address}/{NETWORK.prefixlen}", "dev", "eth0")
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "link", "set", "eth0", "up")
        # Without a default route Ray takes 127.0.0.1 for its node's address.
        _ip(*inside, "route", "add", "default", "via", str(self._gateway))
        self.name(pod, address)
        return namespace, address

    def remove_pod(self, pod: str) -> None:
        """Takes the namespace and the name away, once."""
        if namespace := self._namespaces.pop(pod, None):
            _delete(namespace)
        self._names.pop(pod, None)
        self._write()

    def name(self, name: str, address: str) -> None:
        """The name leads to this address from now on."""
        self._names[name] = address
        self._write()

    def serve(self, name: str, pod: str) -> None:
        """An address of its own for a Service, which stays the same and leads to this Pod now."""
        if name not in self._services:
            self._services[name] = str(next(self._free))
            self.name(name, self._services[name])
        address = self._services[name]
        _ip("-n", self._namespaces[pod], "addr", "add", f"{address}/32", "dev", "eth0")
        # Whoever spoke with the Pod before it still knows that one's link.
        for inside in ((), *(("-n", namespace) for namespace in self._namespaces.values())):
            _ip(*inside, "neigh", "flush", "to", address)

    def open(self) -> None:
        """The bridge, with an address of this machine."""
        _ip("link", "add", PREFIX, "type", "bridge")
        _ip("addr", "add", f"{self._gateway}/{NETWORK.prefixlen}", "dev", PREFIX)
        _ip("link", "set", PREFIX, "up")
        self._write()

    def close(self) -> None:
        """Takes everything away; Pods have ended before."""
        for pod in list(self._namespaces):
            self.remove_pod(pod)
        with suppress(subprocess.CalledProcessError):
            _ip("link", "delete", PREFIX)

    def _write(self) -> None:
        lines = ["127.0.0.1 localhost", *(f"{a} {n}" for n, a in self._names.items())]
        self.hosts.write_text("\n".join(lines) + "\n")


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """The bridge, for as long as the block runs. What an earlier run left is removed first."""
    _remove_leftovers()
    hosts = folder / "hosts"
    hosts.touch(mode=0o644)
    net = Network(hosts)
    net.open()
    try:
        yield net
    finally:
        net.close()


def _remove_leftovers() -> None:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        if line.startswith(PREFIX):
            namespace = line.split()[0]
            pids = subprocess.run(
                ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True
            )
            for pid in pids.stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _delete(namespace)
    with suppress(subprocess.CalledProcessError):
        _ip("link", "delete", PREFIX)


def _delete(namespace: str) -> None:
    # A process that is about to end may keep the namespace for a while, not this end of its pair.
    with suppress(subprocess.CalledProcessError):
        _ip("link", "delete", namespace)
    _ip("netns", "delete", namespace)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
