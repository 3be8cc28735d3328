"""The pictures: two models side by side, and accuracy by thinking budget."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.report.formatting import NOT_REPORTED
from loadtest.report.pictures import COLORS, FIRST, INK, SECOND, make_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALE = 0.45
SMALL: dict[str, Any] = {"fontsize": 9.5, "color": INK}


def comparison(sides: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Accuracy, TTFT, speed and tokens of two sides, each in a panel of its own."""
    figure = make_figure(12.0, 4.2)
    panels = figure.subplots(1, 5)
    _accuracy_panel(panels[0], sides)
    _ttft_panel(panels[1], sides)
    _bars(
        panels[2], "tokens/s\n(one stream, p50)", [_of(s, "stream_tokens_per_s_p50") for s in sides]
    )
    _bars(panels[3], "tokens/s\n(all streams)", [_of(s, "tokens_per_s") for s in sides])
    _tokens_panel(panels[4], sides)
    for panel in panels:
        panel.set_xticks(range(len(sides)), "AB"[: len(sides)])
        panel.set_xlim(-0.6, len(sides) - 0.4)
    from matplotlib.patches import Patch

    names = [
        Patch(color=_color(place), label=f"{'AB'[place]}: {side['label']}")
        for place, side in enumerate(sides)
    ]
    figure.legend(handles=names, loc="outside lower center", ncols=2, frameon=False, fontsize=9.5)
    figure.suptitle(title, fontsize=11, color=INK)
    save(figure, path)


def budget_curve(rows: Mapping[int, Mapping[str, Any]], title: str, path: Path) -> None:
    """`rows` by budget in tokens, rising; those with a `plain_cut` get its curve too."""
    plain = {budget: row["plain_cut"] for budget, row in rows.items() if "plain_cut" in row}
    figure = make_figure(8.0, 7.6)
    panels = figure.subplots(4, 1, sharex=True, height_ratios=[2.4, 1, 1, 1])
    accuracy, empty, cut, tokens = panels
    accuracy.set_title("correct answers, % (band: 95 % interval over problems)", **SMALL)
    empty.set_title("empty answers, %", **SMALL)
    if plain:
        name = "plain cut: the same model and as many tokens, only cut"
        _accuracy_curve(accuracy, plain, SECOND, name, marker="s")
        _curve(empty, {b: _empty_percent(row) for b, row in plain.items()}, SECOND, marker="s")
    name = "budget: reasoning is closed, and the model answers"
    _accuracy_curve(accuracy, rows, FIRST, name if plain else "")
    _curve(empty, {budget: _empty_percent(row) for budget, row in rows.items()}, FIRST)
    if plain:
        accuracy.legend(loc="upper left", frameon=False, fontsize=9)
    cut.set_title("reasoning that the budget truncated, %", **SMALL)
    _curve(cut, {b: _times(100, row["thought_cut_share"]) for b, row in rows.items()}, FIRST)
    tokens.set_title("tokens of reasoning, mean of an answer", **SMALL)
    _curve(tokens, {b: _times(1, row["reasoning_tokens_mean"]) for b, row in rows.items()}, FIRST)
    _budget_axis(tokens, list(rows))
    for panel, most in ((accuracy, 100), (empty, 100), (cut, 100), (tokens, None)):
        _room_above(panel, most)
    figure.suptitle(title, fontsize=11, color=INK)
    save(figure, path)


def frontier(
    rows: Mapping[str, Mapping[str, Any]], on_it: Sequence[str], title: str, path: Path
) -> None:
    """Accuracy against tokens and against the time of an answer, a mark for each policy, in one
    colour for all budgets of it; the line joins those that no other one beats. The first policy's
    names are below its marks on the right, those of the others above on the left: they lie where
    these do, or better."""
    families = list(dict.fromkeys(_family(name) for name in rows))
    figure = make_figure(9.5, 4.6)
    panels = figure.subplots(1, 2, sharey=True)
    panels[0].set_title("correct, % (95 % interval over problems)", **SMALL)
    panels[1].set_title("the same answers, by their time", **SMALL)
    for panel, key, label in (
        (panels[0], "completion_tokens_mean", "tokens of an answer, mean"),
        (panels[1], "e2e_p50_s", "E2E latency p50, s"),
    ):
        panel.set_xlabel(label)
        for name, row in rows.items():
            x, accuracy = _times(1, row[key]), row["accuracy"]
            value = 100 * accuracy["value"]
            errors = [[value - 100 * accuracy["low"]], [100 * accuracy["high"] - value]]
            family = families.index(_family(name))
            color = COLORS[family % len(COLORS)]
            panel.errorbar(x, value, yerr=errors, marker="o", color=color, capsize=3, linewidth=1.2)
            side, offset = ("right", (-6, 5)) if family else ("left", (6, -11))
            panel.annotate(
                name, (x, value), offset, textcoords="offset points", ha=side, fontsize=8
            )
        panel.set_xlim(left=0)
        panel.margins(x=0.15)
    line = [
        (rows[name]["completion_tokens_mean"], rows[name]["accuracy"]["value"]) for name in on_it
    ]
    panels[0].plot(
        [_times(1, x) for x, _ in line], [100 * y for _, y in line], color=INK, linewidth=0.8,
        linestyle="--", zorder=0,
    )  # fmt: skip
    figure.suptitle(title, fontsize=11, color=INK)
    save(figure, path, grid="both")


def _family(name: str) -> str:
    """A policy without its number and budget."""
    return name.partition("@")[0].partition(":")[0]


def _accuracy_curve(
    panel: "Axes", rows: Mapping[int, Mapping[str, Any]], color: str, name: str, marker: str = "o"
) -> None:
    estimates = [row["accuracy"] for row in rows.values()]
    low, high = ([100 * e[key] for e in estimates] for key in ("low", "high"))
    panel.fill_between(list(rows), low, high, color=color, alpha=0.2, linewidth=0)
    values = {b: 100 * e["value"] for b, e in zip(rows, estimates, strict=True)}
    _curve(panel, values, color, marker=marker, label=name)


def _curve(
    panel: "Axes", values: Mapping[int, float], color: str, *, marker: str = "o", label: str = ""
) -> None:
    """A mark at 0 or 100 % is whole: nothing is clipped at the panel's edge. The curve that is
    drawn first is the wider one, so that both are seen where they lie upon another."""
    behind = color == SECOND
    panel.plot(
        list(values), list(values.values()), marker=marker, markersize=7 if behind else 4.5,
        linewidth=3 if behind else 1.5, color=color, label=label or None, clip_on=False,
    )  # fmt: skip


def _empty_percent(row: Mapping[str, Any]) -> float:
    return 100 * row["empty_answers"] / row["answers"] if row["answers"] else float("nan")


def _budget_axis(panel: "Axes", budgets: Sequence[int]) -> None:
    smallest = min((budget for budget in budgets if budget > 0), default=1)
    panel.set_xscale("symlog", base=2, linthresh=smallest, linscale=0.7)
    panel.set_xticks(budgets, [f"{budget:,}" for budget in budgets], minor=False)
    panel.minorticks_off()
    panel.set_xlabel("thinking budget, tokens (each doubling is one step)")


def _accuracy_panel(panel: "Axes", sides: Sequence[Mapping[str, Any]]) -> None:
    panel.set_title("correct, %\n(95 % interval over problems)", **SMALL)
    for place, side in enumerate(sides):
        estimate = side["accuracy"]["over_problems"]
        value = 100 * estimate["value"]
        errors = [[value - 100 * estimate["low"]], [100 * estimate["high"] - value]]
        panel.bar(place, value, 0.6, color=_color(place))
        panel.errorbar(place, value, yerr=errors, color=INK, capsize=5, linewidth=1.2)
        _say(panel, place, 100 * estimate["high"], f"{value:.1f}")
    _room_above(panel, most=100)


def _ttft_panel(panel: "Axes", sides: Sequence[Mapping[str, Any]]) -> None:
    panel.set_title("TTFT, ms\n(p50; pale: p95)", **SMALL)
    for place, side in enumerate(sides):
        p50, p95 = side["total"]["ttft_p50_s"], side["total"]["ttft_p95_s"]
        if p50 is None or p95 is None:
            _say(panel, place, 0, NOT_REPORTED)
            continue
        panel.bar(place, 1e3 * p95, 0.6, color=_color(place), alpha=PALE)
        panel.bar(place, 1e3 * p50, 0.6, color=_color(place))
        _say(panel, place, 1e3 * p95, f"{1e3 * p50:,.0f} / {1e3 * p95:,.0f}")
    _room_above(panel)


def _bars(panel: "Axes", title: str, values: Sequence[float | None]) -> None:
    panel.set_title(title, **SMALL)
    for place, value in enumerate(values):
        if value is not None:
            panel.bar(place, value, 0.6, color=_color(place))
        _say(panel, place, value or 0, NOT_REPORTED if value is None else f"{value:,.0f}")
    _room_above(panel)


def _tokens_panel(panel: "Axes", sides: Sequence[Mapping[str, Any]]) -> None:
    panel.set_title("tokens of an answer\n(pale: reasoning)", **SMALL)
    for place, side in enumerate(sides):
        whole = side["total"]["completion_tokens"]["mean"]
        reasoning = side["total"]["reasoning_tokens"]["mean"]
        if whole is None:
            _say(panel, place, 0, NOT_REPORTED)
            continue
        panel.bar(place, whole, 0.6, color=_color(place), alpha=PALE if reasoning else 1.0)
        if reasoning:
            panel.bar(place, whole - reasoning, 0.6, color=_color(place))
        _say(panel, place, whole, f"{whole:,.0f}")
    _room_above(panel)


def _say(panel: "Axes", x: float, y: float, text: str) -> None:
    panel.annotate(
        text, (x, y), (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=8.5
    )


def _room_above(panel: "Axes", most: float | None = None) -> None:
    """From 0, and with room for what stands above the highest mark; no scale beyond `most`."""
    from matplotlib.ticker import MaxNLocator

    _, top = panel.get_ylim()
    top = top if most is None else min(top, most)
    panel.set_ylim(0, top * 1.12 if top > 0 else 1)
    ticks = MaxNLocator(nbins=5).tick_values(0, top if top > 0 else 1)
    panel.set_yticks([tick for tick in ticks if 0 <= tick <= (most or top * 1.12 or 1)])
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")


def _color(place: int) -> str:
    return (FIRST, SECOND)[place % 2]


def _times(factor: float, value: float | None) -> float:
    """A gap in the line where nothing was reported."""
    return float("nan") if value is None else factor * value


def _of(side: Mapping[str, Any], figure: str) -> float | None:
    return side["total"][figure]
