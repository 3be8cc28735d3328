"""`python -m loadtest fetch-traces`: public traces of LLM traffic, as the simulator reads them."""

import argparse
import csv
import gzip
import io
import json
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from loadtest.errors import MeasurementError, UserError

SOURCES_PAGE = "SOURCES.md"
HEADER = ("arrival_s", "input_tokens", "output_tokens")
HOUR_S = 3600.0
TIMEOUT_S = 60.0

# When it came in seconds of the recording's own clock, prompt tokens, answer tokens.
Row = tuple[float, int, int]
Reader = Callable[[Iterable[str]], Iterator[Row]]
DESCRIPTION = (
    "Downloads public traces from where their authors publish them, keeps when "
    "requests came and how long they and their answers were, and writes a file for each and "
    f"{SOURCES_PAGE} with source, commit, licence and whom to cite."
)
HELP_FORMAT = argparse.RawDescriptionHelpFormatter


@dataclass(frozen=True, slots=True)
class Source:
    """A public trace. `commit` or release is what `url` is pinned to, where its host has any."""

    url: str
    page: str
    commit: str
    licence: str
    cite: str
    read: Reader
    about: str
    reasoning: bool = False


def azure(lines: Iterable[str]) -> Iterator[Row]:
    """TIMESTAMP,ContextTokens,GeneratedTokens with dates."""
    for row in csv.DictReader(lines):
        at = datetime.fromisoformat(row["TIMESTAMP"])
        # Without a zone they are UTC; only differences count.
        at_s = (at.replace(tzinfo=None) - datetime(2020, 1, 1)).total_seconds()  # noqa: DTZ001
        yield at_s, int(row["ContextTokens"]), int(row["GeneratedTokens"])


def burstgpt(lines: Iterable[str]) -> Iterator[Row]:
    """Timestamp in seconds; failed requests have no response and are left out."""
    for row in csv.DictReader(lines):
        answer = int(float(row["Response tokens"]))
        if answer:
            yield float(row["Timestamp"]), int(float(row["Request tokens"])), answer


def json_lines(ticks_per_s: float) -> Reader:
    """Objects with timestamp, input_length, output_length, as Mooncake and Bailian publish."""

    def read(lines: Iterable[str]) -> Iterator[Row]:
        for line in lines:
            if line.strip():
                row = json.loads(line)
                at_s = float(row["timestamp"]) / ticks_per_s
                yield at_s, int(row["input_length"]), int(row["output_length"])

    return read


_AZURE = "https://github.com/Azure/AzurePublicDataset"
_AZURE_COMMIT = "b469a113cedca53ddc3bdea71a143dc4b7d8700c"
_AZURE_RAW = f"https://raw.githubusercontent.com/Azure/AzurePublicDataset/{_AZURE_COMMIT}/data"
_AZURE_2024 = "https://azurepublicdatasettraces.blob.core.windows.net/azurellminfererencetrace"
_SPLITWISE = "Patel et al., Splitwise, ISCA 2024"
_DYNAMO = "Stojkovic et al., DynamoLLM, HPCA 2025"
_MOONCAKE = "https://github.com/kvcache-ai/Mooncake"
_MOONCAKE_COMMIT = "3b5a594133958449a1feaf1c9e0fc1b553e34a28"
_MOONCAKE_RAW = (
    f"https://github.com/kvcache-ai/Mooncake/raw/{_MOONCAKE_COMMIT}/FAST25-release/traces"
)
_FAST = "Qin et al., Mooncake, FAST 2025"
_BAILIAN = "https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon"
_BAILIAN_COMMIT = "0b4273a1d8a83935b9d9356e78f95c31f2ac64cf"
_ATC = "Wang et al., KVCache Cache in the Wild, USENIX ATC 2025"


def _azure(name: str, year: str, cite: str, about: str) -> Source:
    of_2023 = year == "2023"
    url = f"{_AZURE_RAW if of_2023 else _AZURE_2024}/{name}"
    commit = _AZURE_COMMIT if of_2023 else "none: the file has no versions"
    return Source(url, _AZURE, commit, "CC-BY-4.0", cite, azure, about)


def _mooncake(name: str, about: str) -> Source:
    url = f"{_MOONCAKE_RAW}/{name}"
    read = json_lines(1000.0)
    return Source(url, _MOONCAKE, _MOONCAKE_COMMIT, "Apache-2.0", _FAST, read, about)


def _bailian(name: str, about: str, *, reasoning: bool = False) -> Source:
    url = f"{_BAILIAN}/raw/{_BAILIAN_COMMIT}/{name}"
    read = json_lines(1.0)
    return Source(url, _BAILIAN, _BAILIAN_COMMIT, "Apache-2.0", _ATC, read, about, reasoning)


SOURCES: Mapping[str, Source] = {
    "azure2023-conv": _azure("AzureLLMInferenceTrace_conv.csv", "2023", _SPLITWISE, "chat, 1 h"),
    "azure2023-code": _azure(
        "AzureLLMInferenceTrace_code.csv", "2023", _SPLITWISE, "long prompts, short answers, 1 h"
    ),
    "azure2024-conv": _azure(
        "AzureLLMInferenceTrace_conv_1week.csv", "2024", _DYNAMO, "chat, a week, over 1 GB"
    ),
    "azure2024-code": _azure(
        "AzureLLMInferenceTrace_code_1week.csv", "2024", _DYNAMO, "code, a week, several 100 MB"
    ),
    "burstgpt": Source(
        "https://github.com/HPMLL/BurstGPT/releases/download/v1.2/BurstGPT_without_fails_1.csv",
        "https://github.com/HPMLL/BurstGPT",
        "release v1.2",
        "CC-BY-4.0",
        "Wang et al., BurstGPT, KDD 2025",
        burstgpt,
        "ChatGPT and GPT-4 on a campus, two months",
    ),
    "mooncake-conversation": _mooncake("conversation_trace.jsonl", "very long prompts, 1 h"),
    "mooncake-toolagent": _mooncake("toolagent_trace.jsonl", "tools and agents, 1 h"),
    "mooncake-synthetic": _mooncake("synthetic_trace.jsonl", "Poisson arrivals"),
    "bailian-chat": _bailian("qwen_traceA_blksz_16.jsonl", "Qwen's chat users, 2 h"),
    "bailian-api": _bailian("qwen_traceB_blksz_16.jsonl", "Qwen's API users, 2 h"),
    "bailian-coder": _bailian("qwen_coder_blksz_16.jsonl", "Qwen coder, 2 h"),
    "bailian-thinking": _bailian("qwen_thinking_blksz_16.jsonl", "reasoning, 2 h", reasoning=True),
}
EPILOG = (
    "traces:\n"
    + "\n".join(f"  {name:22} {one.licence:11} {one.about}" for name, one in SOURCES.items())
    + "\n\nThe licences are their authors'. Then:\n  tierserve bench scaling --traces FOLDER"
)


def part(rows: Iterable[Row], *, from_s: float, seconds: float) -> list[Row]:
    """Those that come in this part of the recording, which then begins at 0; in order.

    Recordings are in order of arrival but for a little: reading ends a minute after the part does.
    """
    first_s: float | None = None
    taken: list[Row] = []
    for at_s, prompt, answer in rows:
        first_s = at_s if first_s is None else first_s
        since_s = at_s - first_s - from_s
        if since_s > seconds + 60.0:
            break
        if 0 <= since_s <= seconds:
            taken.append((since_s, prompt, answer))
    if not taken:
        raise MeasurementError(
            f"no request comes {from_s:g} s to {from_s + seconds:g} s after the first"
        )
    return sorted(taken)


def write_trace(path: Path, rows: Iterable[Row], *, reasoning: bool) -> None:
    """A gzipped CSV file; of equal rows it is byte for byte the same."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*HEADER, "tier") if reasoning else HEADER)
    for at_s, prompt, answer in rows:
        row = (f"{at_s:.3f}", prompt, answer)
        writer.writerow((*row, "reasoning") if reasoning else row)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="+", choices=SOURCES, metavar="NAME", help="as below")
    add("--to", type=Path, required=True, metavar="FOLDER", help="where the files go")
    add("--from-s", type=float, default=0.0, help="skip so many seconds of the recording (0)")
    add("--seconds", type=float, default=HOUR_S, help="take so many seconds of it (3600)")
    add("--file", type=Path, help="read this file, which you have already, of the one NAME")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    if options.file is not None and len(options.names) != 1:
        raise UserError("--file is of one trace: give one NAME")
    options.to.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        source = SOURCES[name]
        try:
            with _opened(source, options.file) as lines:
                rows = part(source.read(lines), from_s=options.from_s, seconds=options.seconds)
        except (OSError, KeyError, ValueError, MeasurementError) as error:
            raise MeasurementError(f"{name}: {error!r} ({source.url})") from None
        path = options.to / f"{name}.csv.gz"
        write_trace(path, rows, reasoning=source.reasoning)
        _note(options.to / SOURCES_PAGE, name, source, len(rows), options)
        console.print(f"wrote {path}: {len(rows):,} requests", highlight=False)
    return 0


def _opened(source: Source, file: Path | None) -> AbstractContextManager[Iterable[str]]:
    if file is not None:
        return file.open(encoding="utf-8", newline="")
    answer = urllib.request.urlopen(source.url, timeout=TIMEOUT_S)  # noqa: S310 - of SOURCES
    return io.TextIOWrapper(answer, encoding="utf-8", newline="")


def _note(
    page: Path, name: str, source: Source, requests: int, options: argparse.Namespace
) -> None:
    """A line for this trace in the folder's page; the others stay."""
    head = (
        "# Public traces\n\nOnly arrivals and lengths were kept.\n\n"
        "| file | requests | part | source | commit | licence | cite |\n"
        "|---|---|---|---|---|---|---|"
    )
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else head.splitlines()
    lines = [line for line in lines if not line.startswith(f"| {name}.csv.gz |")]
    taken = f"{options.seconds:g} s from {options.from_s:g} s on"
    lines.append(
        f"| {name}.csv.gz | {requests} | {taken} | [{source.url}]({source.page}) "
        f"| {source.commit} | {source.licence} | {source.cite} |"
    )
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
