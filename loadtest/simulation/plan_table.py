"""What `python -m loadtest plan` prints."""

from rich.console import Console
from rich.table import Table

from loadtest.report.formatting import number, percent, seconds
from loadtest.simulation import formatting
from loadtest.simulation.answers import PlanAnswer, PlannedAt, PlannedSet

MOST_ROWS = 5


def print_answer(answer: PlanAnswer, console: Console) -> None:
    load = ", ".join(f"{tier} {rate:.3g}/s" for tier, rate in answer.load_per_s.items())
    if answer.interrupted:
        console.print("Interrupted: this is what was found until then.", style="bold yellow")
    if not answer.sets:
        console.print(f"No set was found that sustains {load}.", style="bold red")
        return
    table = formatting.plain_table(
        f"Sets that sustain {load} within {formatting.slo(answer.asked.slo)}"
    )
    table.add_column("GPUs", no_wrap=True)
    table.add_column("tier", no_wrap=True)
    for title in ("$/day", "$/Mtoken", "goodput", "TTFT p50 / p95", "TPOT p95"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in answer.sets[:MOST_ROWS]:
        _add(table, row)
    console.print(table)
    _print_search(answer, console)
    _print_range(answer, console)
    _print_saving(answer, console)
    for name, price in answer.prices.items():
        source = answer.price_sources[name]
        console.print(f"{name}: ${price:g} an hour ({source})", style="dim", highlight=False)
    formatting.print_profiles(answer.asked.profiles, console)


def _add(table: Table, row: PlannedSet) -> None:
    for place, (tier, found) in enumerate(row.figures.items()):
        table.add_row(
            "" if place else formatting.gpus(row.gpus, "\n"),
            f"{tier} on {row.tiers[tier]}",
            "" if place else number(row.usd_per_day, 2),
            "" if place else number(row.usd_per_million_output_tokens, 3),
            percent(found.goodput),
            formatting.times(found.ttft_s),
            seconds(found.tpot_s.p95),
        )


def _print_search(answer: PlanAnswer, console: Console) -> None:
    proven = (
        "every cheaper set was simulated, is below the bound, or is part of one that failed"
        if answer.proven
        else "a cheaper set may exist: raise --tries"
    )
    console.print(
        f"Simulated: {answer.traffic}; {answer.sets_simulated} sets, "
        f"{formatting.repetitions(answer.repetitions)}; {proven}.",
        style="dim",
        soft_wrap=True,
        highlight=False,
    )


def _print_range(answer: PlanAnswer, console: Console) -> None:
    """What the uncertainty of the profiles' figures makes of the cheapest set."""
    worse, better = answer.pessimistic, answer.optimistic
    if worse is None:
        return
    best = formatting.gpus(answer.sets[0].gpus)
    figures = "the profiles' pessimistic figures"
    if worse.cheapest_holds:
        text = f"{best}: sustains it with {figures} too."
    else:
        text = f"{best}: does not sustain it with {figures}; {_need(worse)}."
    if better is not None:
        text += f" With the optimistic ones {_need(better)}."
    console.print(text, soft_wrap=True, highlight=False)


def _need(at: PlannedAt) -> str:
    if at.cheapest is None:
        return "no set was found that does"
    return f"{formatting.gpus(at.cheapest.gpus)} would, at ${at.cheapest.usd_per_day:.2f} a day"


def _print_saving(answer: PlanAnswer, console: Console) -> None:
    saving = answer.autoscaled
    if saving is None and answer.interrupted:
        return
    if saving is None:
        console.print("Autoscaling has nothing to save at a constant load; give --trace or --day.")
        return
    kept = ", ".join(f"{tier} {percent(share)}" for tier, share in saving.goodput.items())
    if min(saving.goodput.values()) < answer.goodput:
        kept += f", below the {percent(answer.goodput)} asked for"
    console.print(
        f"Autoscaled on the same GPUs: {saving.gpu_hours:.2f} GPU-hours in place of "
        f"{saving.gpu_hours_static:.2f}, ${saving.usd_per_day:.2f} a day, {percent(saving.saved)} "
        f"saved; goodput {kept}.",
        soft_wrap=True,
        highlight=False,
    )
