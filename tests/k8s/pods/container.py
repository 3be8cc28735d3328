"""One container: namespaces, a root with a layer of its own, volumes, user and capabilities, as the
Pod says, by the tools of util-linux and iproute2."""

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.k8s.manifests import Object, quantity
from tests.k8s.pods.root import PASSWD, Root, closed_to_others
from tests.k8s.pods.volumes import Mount, expanded

_CGROUP = Path("/sys/fs/cgroup/memory")
_PARENT = "tierserve-pods"


@dataclass(slots=True)
class Container:
    """Its process is the first one of its process namespace: its end is the end of all of them."""

    name: str
    spec: Object
    security: Mapping[str, Any]
    root: Root
    env: Mapping[str, str]
    mounts: Sequence[Mount]
    namespace: str
    host_name: str
    hosts: Path
    log: Path
    _outer: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Returns at once."""
        with self.log.open("ab") as output:
            self._outer = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self.namespace}"),
                    *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
                    *("bash", "-euc", self._script()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._outer is not None
        return self._outer.poll()

    def wait(self, timeout_s: float) -> int:
        """Its exit code; raises TimeoutExpired."""
        assert self._outer is not None
        return self._outer.wait(timeout_s)

    def processes(self) -> list[psutil.Process]:
        """All that run in it, by this machine's numbers."""
        first = self._first()
        return [first, *first.children(recursive=True)] if first else []

    def execute(self, command: Sequence[str], timeout_s: float) -> bool:
        """Run a command in it, as a probe does: whether it ended with 0 in time."""
        first = self._first()
        if first is None:
            return False
        enter = ["nsenter", f"--target={first.pid}", "--mount", "--pid", "--net", "--uts", "--ipc"]
        enter += [f"--root=/proc/{first.pid}/root", "--wd=/"]
        try:
            done = subprocess.run(
                [*enter, *self._as_user(command)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def kill(self) -> None:
        """All of it at once; returns when all are gone, and so their connections."""
        if self._outer is not None and self._outer.poll() is None:
            processes = self.processes()
            os.killpg(self._outer.pid, signal.SIGKILL)
            self._outer.wait(30)
            psutil.wait_procs(processes, timeout=30)

    def terminate(self, grace_s: float) -> bool:
        """SIGTERM to its first process, then SIGKILL to all: whether it ended by itself."""
        first = self._first()
        if first is not None:
            first.send_signal(signal.SIGTERM)
            try:
                self.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.kill()
                return False
        return True

    def peak_bytes(self) -> int | None:
        """The most memory that it had, where this machine counts it."""
        file = self._cgroup / "memory.max_usage_in_bytes"
        return int(file.read_text()) if file.exists() else None

    @property
    def _cgroup(self) -> Path:
        return _CGROUP / _PARENT / f"{self.host_name}-{self.name}"

    def _first(self) -> psutil.Process | None:
        """bash became the container's own command, so it is the one child of `unshare`."""
        assert self._outer is not None
        try:
            children = psutil.Process(self._outer.pid).children()
        except psutil.NoSuchProcess:
            return None
        return children[0] if children else None

    def _script(self) -> str:
        layer, root = "/mnt/layer", "/mnt/layer/root"
        steps = [
            *self._limit_memory(),
            f"hostname {self.host_name}",
            # Of this namespace alone, as all that follows.
            "mount -t tmpfs tmpfs /mnt",
            f"mkdir -p {layer}/upper {layer}/work {root}",
            f"mount -t overlay overlay {root} "
            f"-o lowerdir={self.root.folder},upperdir={layer}/upper,workdir={layer}/work",
            *(f"chmod o+x {root}{folder}" for folder in closed_to_others(self.root)),
            f"grep -q '^[^:]*:[^:]*:1000:' {root}/etc/passwd || echo {PASSWD} >> {root}/etc/passwd",
            f"mount --rbind /dev {root}/dev",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind -o ro /sys {root}/sys",
            *self._mount_cgroup(root),
            f"touch {root}/etc/hosts {root}/etc/resolv.conf",
            f"mount --bind {self.hosts} {root}/etc/hosts",
            f"mount --bind /dev/null {root}/etc/resolv.conf",
            *(step for mount in self.mounts for step in self._mount(root, mount)),
            *self._bind(root, self.root.shown),
        ]
        if self._is("readOnlyRootFilesystem"):
            steps.append(f"mount -o remount,bind,ro {root}")
        command = [*self.spec.get("command", []), *self.spec.get("args", [])]
        command = [expanded(word, self.env) for word in command]
        steps.append(f"exec chroot {root} {shlex.join(self._as_user(command))}")
        return "\n".join(steps)

    def _bind(self, root: str, shown: Mapping[str, Path]) -> list[str]:
        return [
            f"mkdir -p {root}{path} && mount --bind -o ro {source} {root}{path}"
            for path, source in shown.items()
        ]

    def _mount(self, root: str, mount: Mount) -> list[str]:
        target = f"{root}{mount.path}"
        if mount.source is None:
            options = f"size={mount.size_bytes},mode=1777"
            return [f"mkdir -p {target}", f"mount -t tmpfs tmpfs {target} -o {options}"]
        how = "-o bind,ro" if mount.read_only else "--bind"
        return [f"mkdir -p {target}", f"mount {how} {mount.source} {target}"]

    def _limit_memory(self) -> list[str]:
        limit = self.spec.get("resources", {}).get("limits", {}).get("memory")
        if not limit or not _CGROUP.is_dir():
            return []
        bytes_ = int(quantity(limit))
        return [
            f"mkdir -p {self._cgroup}",
            f"echo {bytes_} > {self._cgroup}/memory.limit_in_bytes",
            f"echo 0 > {self._cgroup}/memory.max_usage_in_bytes",
            f"echo 0 > {self._cgroup}/cgroup.procs",
        ]

    def _mount_cgroup(self, root: str) -> list[str]:
        # What Ray reads to learn how much memory it has.
        if not self._limit_memory():
            return []
        return [f"mount --bind {self._cgroup} {root}{_CGROUP}"]

    def _as_user(self, command: Sequence[str]) -> list[str]:
        user = self.security.get("runAsUser", 0)
        group = self.security.get("runAsGroup", 0)
        become = [f"--reuid={user}", f"--regid={group}"]
        groups = self.security.get("fsGroup", group)
        become.append(f"--groups={groups}")
        if self.security.get("allowPrivilegeEscalation") is False:
            become.append("--no-new-privs")
        if self.security.get("capabilities", {}).get("drop") == ["ALL"]:
            become += ["--inh-caps=-all", "--bounding-set=-all"]
        variables = [f"{name}={value}" for name, value in self.env.items()]
        enter = ["/bin/sh", "-c", f'cd {self.root.workdir} && exec "$@"', "-"]
        return ["setpriv", *become, "env", "-i", *variables, *enter, *command]

    def _is(self, setting: str) -> bool:
        return self.security.get(setting) is True
