"""`python -m loadtest card`: the parts one after the other, resumed where they stopped."""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from loadtest.errors import MeasurementError, UserError
from loadtest.gpu_record import page, plan
from loadtest.gpu_record.parts import measure_starts
from loadtest.gpu_record.plan import Part, Target
from loadtest.gpu_record.result import DONE, FAILED, NO_TIME, RECORD_FILE, gather, read_record
from loadtest.gpu_record.service import GpuService, serving, this_gpu_service
from loadtest.options import positive
from loadtest.report.pages import write_section
from loadtest.report.results_file import REPOSITORY, provenance, write
from loadtest.report.run_folder import RunFolder, default_folder, read_lines
from serve_app.local.ports import free_ports, is_free

ABOUT_FILE, ENDS_FILE, PORT_FILE = "about.json", "parts.jsonl", "port"
SENT = REPOSITORY / "docs" / "cards"
# A part that takes this many times what it should is stopped.
PATIENCE = 3
TAIL_LINES = 4
END_LIMIT_S = 60.0
DESCRIPTION = """\
Measures this machine's first GPU with this product, in at most 45 minutes: what fits, starts by
phases, step times, the simulation against real loads, right answers by thinking budget, the cost
beside vLLM alone, and streams under kill -9. Without a GPU it runs micro-r1 on the CPU, which shows
what the command does. Run it again to go on where it stopped; it writes record.json and .html."""
EPILOG = """examples:
  all of it, 45 minutes:
    python -m loadtest card
  does it run here? A few minutes, no figures to keep:
    python -m loadtest card --quick
  one part again:
    python -m loadtest card --out loadtest/results/gpu_record/full-NAME-DATE --again overhead
  the table of docs/cards from all files there:
    python -m loadtest card --table

exit status: 0 every part has a result, 1 some have none (record.html says why), 2 bad usage."""
HELP_FORMAT = argparse.RawDescriptionHelpFormatter
ON_INTERRUPT = "Interrupted: the same command goes on here."


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", help="the profile's if not given; micro-r1 without a GPU")
    add("--quick", action="store_true", help="a few requests for each part")
    add("--limit-minutes", type=positive, default=45, metavar="MINUTES",
        help="no part begins that would end later (45); run again, it goes on")  # fmt: skip
    add("--out", type=Path, metavar="DIR",
        help="loadtest/results/gpu_record/full-NAME-DATE if not given")  # fmt: skip
    add("--parts", nargs="+", choices=tuple(plan.BY_NAME), metavar="PART",
        help=f"only these of {', '.join(plan.BY_NAME)}")  # fmt: skip
    add("--again", nargs="+", choices=tuple(plan.BY_NAME), metavar="PART", default=(),
        help="these once more, though they are done")  # fmt: skip
    add("--table", action="store_true", help="only write the table of docs/cards")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """1 where a part has no result; raises UserError, MeasurementError."""
    if options.table:
        console.print(f"wrote {write_table(SENT)}", soft_wrap=True, highlight=False)
        return 0
    served = this_gpu_service(options.model)
    kind = "quick" if options.quick else "full"
    folder = options.out or default_folder("gpu_record", kind, served.name, to_the_day=True)
    with RunFolder(folder) as lines:
        lines.open(ENDS_FILE)
        about = _about(folder, served, quick=options.quick)
        target = Target(folder, served.model, served.gpu is not None, options.quick)
        ended = {line["part"]: line for line in read_lines(folder, ENDS_FILE)}
        left = [part for part in _chosen(options) if _is_left(part, ended, options.again)]
        todo = f"{len(left)} of {len(plan.PARTS)} parts, {_minutes(left, quick=options.quick)}"
        console.print(f"{folder}: {todo}", highlight=False, soft_wrap=True)
        for end in _ends(left, served, target, options.limit_minutes * 60.0, console):
            if end["how"] == NO_TIME and ended.get(end["part"], {}).get("how") == DONE:
                continue  # an earlier result is better than none
            lines.add(ENDS_FILE, end)
            ended[end["part"]] = end
            _write_result(folder, about, ended)
    result = _write_result(folder, about, ended)
    for name, value in page.figures(result).items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
    console.print(f"wrote {folder / RECORD_FILE} and {folder / page.PAGE}", soft_wrap=True)
    return int(any(ended.get(part.name, {}).get("how") != DONE for part in _chosen(options)))


def write_table(sent: Path) -> Path:
    """Into README.md of that folder, from all .json files there. Raises UserError."""
    try:
        found = [read_record(path) for path in sorted(sent.glob("*.json"))]
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from None
    return write_section(page.SECTION, page.table(found), sent / "README.md")


def _chosen(options: argparse.Namespace) -> list[Part]:
    return [part for part in plan.PARTS if not options.parts or part.name in options.parts]


def _is_left(part: Part, ended: Mapping[str, Any], again: Sequence[str]) -> bool:
    return part.name in again or ended.get(part.name, {}).get("how") != DONE


def _minutes(parts: Sequence[Part], *, quick: bool) -> str:
    minutes = sum(part.seconds(quick=quick) for part in parts) / 60
    return f"about {minutes:.0f} minutes"


def _about(folder: Path, served: GpuService, *, quick: bool) -> dict[str, Any]:
    """What record.json says of the machine. Raises UserError where the folder is of another one."""
    about = provenance() | {
        "gpu": _gpu_facts(served),
        "model": Path(served.model).name,
        "quick": quick,
    }
    path = folder / ABOUT_FILE
    if not path.exists():
        write(path, about)
        return about
    kept = json.loads(path.read_text(encoding="utf-8"))
    # As it is read again: a pair has become a list.
    now = json.loads(json.dumps(about))
    for name in ("gpu", "model", "quick", "commit", "versions"):
        if _same(kept[name]) != _same(now[name]):
            raise UserError(
                f"{folder} was begun with another {name} ({kept[name]}, now {now[name]}): "
                "name another --out."
            )
    return kept


def _same(fact: Any) -> Any:
    """A file that is edited meanwhile makes no other commit."""
    return fact.removesuffix("+changes") if isinstance(fact, str) else fact


def _gpu_facts(served: GpuService) -> dict[str, Any]:
    """Without its serial number; None is not known, as of a CPU."""
    gpu = served.gpu
    return {
        "name": served.name,
        "accelerator_type": gpu and gpu.accelerator_type,
        "memory_bytes": gpu and gpu.memory_bytes,
        "capability": gpu and gpu.capability,
        "driver": gpu and gpu.driver,
    }


def _write_result(
    folder: Path, about: Mapping[str, Any], ended: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    in_order = {part.name: ended[part.name] for part in plan.PARTS if part.name in ended}
    result = gather(folder, about, in_order)
    write(folder / RECORD_FILE, result)
    page.write_page(result, folder)
    return result


@dataclass(slots=True)
class _StartedOnce:
    """Started for the first part that asks it, stopped before the first that does not."""

    served: GpuService
    running: contextlib.ExitStack
    port: int
    base_url: str = ""

    def wanted(self, wanted: bool) -> str:
        if wanted and not self.base_url:
            self.base_url = self.running.enter_context(serving(self.served, self.port))
        elif not wanted and self.base_url:
            self.running.close()
            self.base_url = ""
        return self.base_url


def _ends(
    parts: Sequence[Part], served: GpuService, target: Target, limit_s: float, console: Console
) -> Iterator[dict[str, Any]]:
    """Measure one after the other; how each ended, and after how long."""
    begun_s = time.monotonic()
    with contextlib.ExitStack() as running:
        service = _StartedOnce(served, running, _port(target.folder))
        for part in parts:
            about_s = part.seconds(quick=target.quick)
            if time.monotonic() - begun_s + about_s > limit_s:
                console.print(f"{part.title}: no time left", highlight=False)
                yield {"part": part.name, "how": NO_TIME, "took_s": 0.0, "detail": ""}
                continue
            console.print(f"{part.title}: about {about_s / 60:.1f} minutes", highlight=False)
            part_begun_s = time.monotonic()
            detail = ""
            try:
                asked = replace(target, base_url=service.wanted(part.asks_service))
                _measure(part, served, asked, lambda text: console.print(f"  {text}"))
            # What the service answers while it starts or ends may be anything.
            except (MeasurementError, OSError, ValueError, KeyError) as error:
                detail = str(error) or type(error).__name__
                console.print(f"  failed: {detail}", style="red", markup=False, soft_wrap=True)
            took_s = round(time.monotonic() - part_begun_s, 1)
            how = FAILED if detail else DONE
            yield {"part": part.name, "how": how, "took_s": took_s, "detail": detail}


def _port(folder: Path) -> int:
    """The same as before where it is free: an evaluation goes on at its own address only."""
    kept = folder / PORT_FILE
    port = int(kept.read_text(encoding="utf-8")) if kept.exists() else 0
    if not port or not is_free(port):
        (port,) = free_ports(1)
        kept.write_text(str(port), encoding="utf-8")
    return port


def _measure(part: Part, served: GpuService, target: Target, say: Callable[[str], None]) -> None:
    """Raises MeasurementError where the part leaves no result."""
    if part.words is None:
        measure_starts(served, target.folder, say)
        return
    result, log = target.folder / part.result, target.folder / f"{part.name}.log"
    # An earlier one must not pass for this one.
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "loadtest", *part.words(target)]
    with log.open("w", encoding="utf-8") as output:
        status = _run(command, output, PATIENCE * part.seconds(quick=target.quick))
    if status not in part.accepted or not result.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise MeasurementError(f"exit status {status}: {' '.join(lines[-TAIL_LINES:])}")


def _run(command: Sequence[str], output: TextIO, limit_s: float) -> int:
    """The exit status. Stopped, it is given time to end the servers that it has started. Raises
    MeasurementError."""
    with subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY
    ) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_LIMIT_S)
            process.kill()
            raise MeasurementError(
                f"stopped after {limit_s:.0f} s; see {Path(output.name).name}"
            ) from None
        except BaseException:
            process.terminate()
            raise
