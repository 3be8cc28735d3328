"""What a server's process is, by the title that it gives itself."""

from pathlib import Path

import psutil

from serve_app.core.tiers import Tier

# vLLM's own, without Ray.
BARE_SERVER = "vllm server"
HAPROXY = "haproxy"
# By the begin of the title that a process gives itself.
TITLES = (
    ("api_server", BARE_SERVER),
    ("ray::ServeController", "controller"),
    ("ray::ProxyActor", "proxy"),
    ("ray::HAProxyManager", "proxy"),
    ("haproxy", HAPROXY),
    ("raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("ray-dashboard", "dashboard"),
    ("dashboard.py", "dashboard"),
    ("ray::DashboardAgent", "dashboard agent"),
    ("ray::RuntimeEnvAgent", "runtime-env agent"),
)
REPLICA = "ray::ServeReplica:"
ENGINE = "VLLM::"
# Where the engine's process cannot set its title, which happens, it keeps how Python has begun it.
SPAWNED = "multiprocessing.spawn"
ENGINE_OWNERS = ("replica", "vllm")
OTHER = "other"


def role_of(process: psutil.Process) -> str:
    """`engine chat`, `replica web`, `haproxy`; what is not known by its title is `other`."""
    title = title_of(process)
    if not title.startswith(ENGINE) and title != SPAWNED:
        return role_of_title(title)
    owner_title = _title_of_parent(process)
    if title == SPAWNED and role_of_title(owner_title).partition(" ")[0] not in ENGINE_OWNERS:
        return OTHER
    return f"engine {_replica(owner_title)}".strip()


def role_of_title(title: str) -> str:
    if title.startswith(REPLICA):
        return f"replica {_replica(title)}"
    return next((role for begin, role in TITLES if title.startswith(begin)), OTHER)


def title_of(process: psutil.Process) -> str:
    """The first word of the command line without its folder, or the script or module that Python
    runs; '' of a process that is gone."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    first = command[0] if command else ""
    if "::" in first:
        return first  # may have a slash behind its colons
    if SPAWNED in " ".join(command):
        return SPAWNED
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1].rpartition(".")[2]
    script = next((Path(word).name for word in command if word.endswith(".py")), "")
    return script or Path(first).name


def role_of_tier(role: str, tier: Tier | str) -> str:
    return f"{role} {tier}"


def _title_of_parent(process: psutil.Process) -> str:
    try:
        parent = process.parent()
    except psutil.Error:
        return ""
    return "" if parent is None else title_of(parent)


def _replica(title: str) -> str:
    """`ray::ServeReplica:chat:chat.handle_request` is chat's."""
    return title.removeprefix(REPLICA).partition(":")[0] if title.startswith(REPLICA) else ""
