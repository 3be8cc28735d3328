"""`record.json` as a page that needs no other file, and the table of all that people have sent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.gpu_record import plan
from loadtest.report.formatting import NOT_REPORTED, markdown_table, number, percent, seconds
from loadtest.report.pages import inline, render
from loadtest.report.pictures import COLORS, LEGEND, SMALL, make_figure, save
from loadtest.report.results_file import META

PAGE, STARTS_PICTURE, SPEED_PICTURE = "record.html", "starts.png", "speed.png"
SECTION = "cards"
NOBODY = "Nobody has run it on a GPU yet."
HEADER = (
    "GPU",
    "driver",
    "model",
    "tokens/s at 1 stream, full batch",
    "start, again",
    "KV tokens, off by",
    "of bare vLLM's speed",
    "right answers",
    "streams cut by kill -9",
    "commit, date",
)


def write_page(record: Mapping[str, Any], folder: Path) -> Path:
    """The page, from record.json and the pictures that the parts have left in the folder."""
    pictures: dict[str, str] = {}
    if record[plan.STARTS] is not None:
        draw_starts(record[plan.STARTS]["starts"], folder / STARTS_PICTURE)
    if record[plan.CALIBRATE] is not None:
        draw_speed(record[plan.CALIBRATE]["tokens_per_s"], folder / SPEED_PICTURE)
    fit = Path(plan.PROFILE_FILE).with_suffix(".png").name
    for name in (STARTS_PICTURE, SPEED_PICTURE, fit, plan.BUDGETS_PICTURE):
        if (folder / name).exists():
            pictures[name] = inline(folder / name)
    page = folder / PAGE
    page.write_text(
        render(
            "gpu_record.html.j2",
            record=record,
            meta=record[META],
            titles={part.name: part.title for part in plan.PARTS},
            figures=figures(record),
            pictures=pictures,
            fit_picture=fit,
            budgets_picture=plan.BUDGETS_PICTURE,
            starts_picture=STARTS_PICTURE,
            speed_picture=SPEED_PICTURE,
        ),
        encoding="utf-8",
    )
    return page


def figures(record: Mapping[str, Any]) -> dict[str, str]:
    """What a person wants to know first, by what it is."""
    alone, full = speeds(record)
    return {
        "tokens a second, one stream": alone,
        "tokens a second, full batch": full,
        "second start": _second_start(record),
        "KV cache, off what was predicted": _kv_off_by(record),
        "of bare vLLM's speed": _of_bare(record),
        "right answers": _right(record),
        "streams cut by kill -9": _cut(record),
    }


def speeds(record: Mapping[str, Any]) -> tuple[str, str]:
    """Tokens a second with one stream, and with all that the replica takes."""
    if record[plan.CALIBRATE] is None:
        return NOT_REPORTED, NOT_REPORTED
    values = list(record[plan.CALIBRATE]["tokens_per_s"].values())
    return number(values[0]), number(values[-1])


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """A row for each; without any it says so."""
    if not records:
        return NOBODY
    return markdown_table(HEADER, [_row(record) for record in records], text_columns=3)


def draw_starts(starts: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A bar for each start, its phases behind one another."""
    figure = make_figure(8.0, 2.2)
    axes = figure.subplots()
    names = ["first start", "second start"]
    phases = [name for name in starts[0]["phases_s"] if name not in ("total", "compile")]
    lefts = [0.0] * len(starts)
    for place, phase in enumerate(phases):
        widths = [start["phases_s"].get(phase, 0.0) for start in starts]
        color = COLORS[place % len(COLORS)]
        axes.barh(names[: len(starts)], widths, left=lefts, color=color, label=phase)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    rest = [start["phases_s"]["total"] - left for start, left in zip(starts, lefts, strict=True)]
    axes.barh(names[: len(starts)], rest, left=lefts, color="#BBBBBB", label="the rest")
    axes.invert_yaxis()
    axes.set_title("seconds from the replica's process to its first health check", **SMALL)
    figure.legend(**LEGEND, loc="outside lower center", ncols=len(phases) + 1)
    save(figure, path, grid="x")


def draw_speed(tokens_per_s: Mapping[str, float], path: Path) -> None:
    figure = make_figure(8.0, 2.8)
    axes = figure.subplots()
    axes.plot([int(n) for n in tokens_per_s], list(tokens_per_s.values()), "o-", color=COLORS[0])
    axes.set_xscale("log", base=2)
    axes.set_xticks([int(n) for n in tokens_per_s], list(tokens_per_s))
    axes.set_ylim(bottom=0)
    axes.set_title("tokens a second by sequences in a batch, contexts of 512 tokens", **SMALL)
    save(figure, path)


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    meta = record[META]
    gpu = meta["gpu"]
    alone, full = speeds(record)
    return (
        gpu["name"],
        gpu.get("driver") or NOT_REPORTED,
        meta["model"],
        f"{alone}, {full}",
        f"{_first_start(record)}, {_second_start(record)}",
        f"{number(_starts(record).get('kv_tokens'))}, {_kv_off_by(record)}",
        _of_bare(record),
        _right(record),
        _cut(record),
        f"{meta['commit']}, {meta['date'][:10]}",
    )


def _starts(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last start; empty where none was measured."""
    return record[plan.STARTS]["starts"][-1] if record[plan.STARTS] else {}


def _first_start(record: Mapping[str, Any]) -> str:
    return seconds(
        record[plan.STARTS]["starts"][0]["phases_s"]["total"] if record[plan.STARTS] else None
    )


def _second_start(record: Mapping[str, Any]) -> str:
    return seconds(_starts(record).get("phases_s", {}).get("total"))


def _kv_off_by(record: Mapping[str, Any]) -> str:
    off_by = record[plan.STARTS]["kv_off_by"] if record[plan.STARTS] else None
    return NOT_REPORTED if off_by is None else f"{off_by:+.1%}"


def _of_bare(record: Mapping[str, Any]) -> str:
    """The ratio at each number of streams."""
    if record[plan.OVERHEAD] is None:
        return NOT_REPORTED
    ratios = {n: row["tokens_per_s_ratio"]["value"] for n, row in record[plan.OVERHEAD].items()}
    return ", ".join(f"{ratio:.2f} at {streams}" for streams, ratio in ratios.items())


def _right(record: Mapping[str, Any]) -> str:
    answers = record[plan.ANSWERS]
    if answers is None:
        return NOT_REPORTED
    accuracy = percent(answers["accuracy"]["pass_at_1"])
    return f"{accuracy} of {answers['problems']} ({answers['settings']['dataset']})"


def _cut(record: Mapping[str, Any]) -> str:
    faults = record[plan.FAULTS]
    if faults is None:
        return NOT_REPORTED
    return f"{sum(row['cut'] for row in faults)} of {sum(row['streams'] for row in faults)}"
