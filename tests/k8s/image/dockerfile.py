"""Runs deploy/Dockerfile's steps in folders, with debootstrap in place of the base image and chroot
in place of a container: a proof that each step works, where there is no Docker engine.

It knows the instructions of that one file. Root and a network are needed.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

SUITE = "bookworm"
# Where packages come from here is no part of the file.
PASSED_ON = ("PIP_", "UV_", "SSL_")
BASE_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
}


@dataclass(slots=True)
class Stage:
    """A root folder, and what its next instruction sees."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)

    @property
    def values(self) -> dict[str, str]:
        return {**self.args, **self.env}


@dataclass(slots=True)
class Build:
    """`given` are the build's arguments, `mounts` folders of this machine that steps may read."""

    context: Path
    folder: Path
    given: Mapping[str, str]
    mounts: tuple[Path, ...] = ()
    stages: dict[str, Stage] = field(default_factory=dict)
    _globals: dict[str, str] = field(default_factory=dict)

    def run(self, dockerfile: Path, until: str) -> Stage:
        """Every stage up to this one."""
        parser = DockerfileParser(str(dockerfile))
        stage: Stage | None = None
        for step in parser.structure:
            word, value = step["instruction"], step["value"]
            if word == "COMMENT":
                continue
            if word == "FROM":
                if until in self.stages:
                    break
                stage = self._begin(value)
            elif stage is None:
                name, _, default = value.partition("=")
                self._globals[name] = self.given.get(name, default)
            else:
                self._step(stage, word, value)
        return self.stages[until]

    def _begin(self, value: str) -> Stage:
        parent, _, name = (_filled(part, self._globals) for part in value.split())
        print(f"== {name}, from {parent}", flush=True)
        root = self.folder / name
        if parent in self.stages:
            before = self.stages[parent]
            subprocess.run(["cp", "-a", before.root, root], check=True)
            stage = Stage(root, dict(before.env), dict(before.args), before.workdir, before.user)
        else:
            if parent != "scratch":
                _bootstrap(root)
            root.mkdir(exist_ok=True)
            stage = Stage(root)
        self.stages[name] = stage
        return stage

    def _step(self, stage: Stage, word: str, value: str) -> None:
        print(f"{word} {value[:100]}", flush=True)
        if word == "ARG":
            name, _, default = value.partition("=")
            stage.args[name] = self.given.get(name) or default or self._globals.get(name, "")
        elif word == "ENV":
            stage.env |= dict(_pairs(value, {**BASE_ENV, **stage.values}))
        elif word == "WORKDIR":
            stage.workdir = value
            (stage.root / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            stage.user = value
        elif word == "CMD":
            stage.command = json.loads(value)
        elif word == "COPY":
            self._copy(stage, _filled(value, stage.values))
        elif word == "RUN":
            shell = ["/bin/bash", "-euo", "pipefail", "-c", value]
            subprocess.run(in_root(stage, shell, self.mounts), check=True)
        elif word not in {"SHELL", "LABEL", "EXPOSE"}:
            raise ValueError(f"no step like {word} is known")

    def _copy(self, stage: Stage, value: str) -> None:
        words = shlex.split(value)
        source = self.context
        if words[0].startswith("--from="):
            source = self.stages[words.pop(0).removeprefix("--from=")].root
        *patterns, target = words
        into = stage.root / (
            target if target.startswith("/") else stage.workdir + "/" + target
        ).lstrip("/")
        for pattern in patterns:
            found = sorted(source.glob(pattern.lstrip("/"))) if pattern != "/" else [source]
            assert found, f"COPY {pattern}: nothing is there"
            for path in found:
                if path.is_dir():
                    shutil.copytree(path, into, symlinks=True, dirs_exist_ok=True)
                    continue
                is_folder = target.endswith("/") or len(found) > 1 or len(patterns) > 1
                (into if is_folder else into.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, into / path.name if is_folder else into)


def in_root(
    stage: Stage,
    command: Sequence[str],
    mounts: Sequence[Path] = (),
    writable: Sequence[str] | None = None,
) -> list[str]:
    """The command as the stage's user runs it, with mounts and processes of its own. `writable`:
    the folders that are, empty, in a root that is not."""
    root = str(stage.root)
    steps = [
        f"mount --bind {root} {root}",
        f"mount --rbind /dev {root}/dev",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind -o ro /sys {root}/sys",
        *(f"mkdir -p {root}{path} && mount --bind -o ro {path} {root}{path}" for path in mounts),
    ]
    if writable is not None:
        owner = "uid={},gid={}".format(*stage.user.split(":"))
        steps += [f"mount -t tmpfs -o mode=1777,{owner} tmpfs {root}{path}" for path in writable]
        steps.append(f"mount -o remount,bind,ro {root}")
    here = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    environment = {**BASE_ENV, **(here if mounts else {}), **stage.values}
    chroot = [
        *("chroot", f"--userspec={stage.user}", root, "env", "-i"),
        *(f"{name}={value}" for name, value in environment.items()),
        *("/bin/bash", "-c", f'cd {stage.workdir} && exec "$@"', "-", *command),
    ]
    script = " && ".join([*steps, f"exec {shlex.join(chroot)}"])
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script]


def _bootstrap(root: Path) -> None:
    subprocess.run(
        ["debootstrap", "--variant=minbase", SUITE, str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for name in ("etc/resolv.conf", "etc/hosts"):
        shutil.copy(Path("/") / name, root / name)


def _pairs(value: str, values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for word in shlex.split(value):
        name, _, text = word.partition("=")
        yield name, _filled(text, values)


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return text
