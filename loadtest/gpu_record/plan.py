"""The parts of a record in their order, each with what it takes and the command behind it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.evaluation.run import SUMMARY
from loadtest.gpu_record.service import local_model
from loadtest.report.pages import between_markers

# Names of parts, which are those of their logs, and in record.json.
STARTS, CALIBRATE, VALIDATE = "starts", "calibrate", "validate"
ANSWERS, BUDGETS, OVERHEAD, FAULTS = "answers", "budgets", "overhead", "faults"
PROFILE_FILE, VALIDATION_FILE, BUDGETS_FILE = "profile.json", "validation.json", "budgets.json"
OVERHEAD_FILE, FAULTS_FILE = "overhead.json", "faults.json"
BUDGETS_PAGE, BUDGETS_PICTURE, BUDGETS_SECTION = "budgets.md", "budgets.png", "budget-curve"
ANSWERS_FOLDER = "answers"
ANSWERS_FILE = f"{ANSWERS_FOLDER}/{SUMMARY}"


@dataclass(frozen=True, slots=True)
class Target:
    """What the parts of a run are about. `base_url` is the service's while it runs."""

    folder: Path
    model: str
    on_gpu: bool
    quick: bool
    base_url: str = ""

    @property
    def api(self) -> str:
        return f"{self.base_url}/api/chat/v1"

    @property
    def dataset(self) -> str:
        """micro-r1 knows nothing but its own kind of problem."""
        return "gsm8k" if self.on_gpu else "micro"


@dataclass(frozen=True, slots=True)
class Part:
    """`words` are those behind `python -m loadtest`; None: loadtest/gpu_record/parts.py has it.
    `about_s` is what it takes on a GPU, `quick_s` with --quick; longer than three times that it is
    stopped. `result` is the file that it leaves, with one of the exit statuses `accepted`."""

    name: str
    title: str
    about_s: float
    quick_s: float
    asks_service: bool = False
    words: Callable[[Target], Sequence[str]] | None = None
    result: str = ""
    accepted: frozenset[int] = frozenset((0,))

    def seconds(self, *, quick: bool) -> float:
        return self.quick_s if quick else self.about_s


def _calibrate(target: Target) -> list[str]:
    limit_s, rounds = ("30", "1") if target.quick else ("240", "5")
    return [
        *("calibrate", "--base-url", target.base_url, "--tier", "chat"),
        *("--out", str(target.folder / PROFILE_FILE), "--limit-s", limit_s, "--rounds", rounds),
    ]


def _validate(target: Target) -> list[str]:
    return [
        *("validate", "--base-url", target.base_url, "--tier", "chat"),
        *("--profile", str(target.folder / PROFILE_FILE)),
        *("--out", str(target.folder / VALIDATION_FILE)),
        *("--duration-s", "10" if target.quick else "60"),
    ]


def _answers(target: Target) -> list[str]:
    return [
        *("eval", "--base-url", target.api, "--dataset", target.dataset, "--runs", "1"),
        *("--limit", "20" if target.quick else "200", "--concurrency", "24"),
        *("--out", str(target.folder / ANSWERS_FOLDER)),
    ]


def _budgets(target: Target) -> list[str]:
    page = target.folder / BUDGETS_PAGE
    if not page.exists():
        begin = f"<!-- {BUDGETS_SECTION}:begin --><!-- {BUDGETS_SECTION}:end -->"
        page.write_text(between_markers(begin, BUDGETS_SECTION, ""), encoding="utf-8")
    full = (0, 256, 512, 1024, 1536) if target.on_gpu else (0, 32, 64, 96, 128, 400)
    budgets = (0, 64) if target.quick else full
    return [
        *("budget-curve", "--base-url", target.api, "--dataset", target.dataset),
        *("--limit", "20" if target.quick else "100", "--concurrency", "24"),
        *("--budgets", *map(str, budgets)),
        *("--answers", str(target.folder / "budget-answers")),
        *("--out", str(target.folder / BUDGETS_FILE), "--page", str(page)),
        *("--picture", str(target.folder / BUDGETS_PICTURE)),
    ]


def _overhead(target: Target) -> list[str]:
    levels = ("1",) if target.quick else ("1", "8", "32")
    return [
        *("overhead", "--systems", "bare", "ours", "--concurrency", *levels),
        *("--rounds", "1" if target.quick else "4", "--starts", "1", "--open-loop-rate", "0"),
        *("--no-pure-path", "--model", local_model(target.model)),
        *("--out", str(target.folder / OVERHEAD_FILE)),
        *(("--quick",) if target.quick else ()),
    ]


def _faults(target: Target) -> list[str]:
    return [
        *("continuity", "--as-served", "--model", target.model, "--replicas", "1"),
        *("--faults", "replica", "engine", "--streams", "4" if target.quick else "8"),
        *("--cuts", "1" if target.quick else "8", "--out", str(target.folder / FAULTS_FILE)),
    ]


# A validation that is off, an empty answer and a cut stream end with 1 and are results.
FOUND = frozenset((0, 1))
PARTS = (
    Part(STARTS, "two starts, by phases; the KV cache predicted and found", 300, 120),
    Part(CALIBRATE, "step times by batch and context", 270, 60, True, _calibrate, PROFILE_FILE),
    Part(
        VALIDATE,
        "three loads for real and simulated",
        300,
        60,
        True,
        _validate,
        VALIDATION_FILE,
        FOUND,
    ),
    Part(
        ANSWERS, "right answers with the whole budget", 300, 30, True, _answers, ANSWERS_FILE, FOUND
    ),
    Part(BUDGETS, "right answers by thinking budget", 480, 40, True, _budgets, BUDGETS_FILE, FOUND),
    Part(OVERHEAD, "beside vLLM alone", 480, 120, words=_overhead, result=OVERHEAD_FILE),
    Part(
        FAULTS, "streams under kill -9", 420, 150, words=_faults, result=FAULTS_FILE, accepted=FOUND
    ),
)
BY_NAME = {part.name: part for part in PARTS}
