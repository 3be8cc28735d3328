"""What `python -m loadtest simulate` prints."""

from rich.console import Console
from rich.table import Table

from loadtest.report.formatting import counts, number, percent
from loadtest.simulation import words
from loadtest.simulation.answers import SimulateAnswer


def tell(answer: SimulateAnswer, console: Console) -> None:
    console.print(_summary(answer))
    console.print(_by_tier(answer))
    console.print(_by_card(answer))
    cell = f" Each simulated card stands for {answer.cell:g}." if answer.cell > 1 else ""
    console.print(f"Simulated.{cell}", style="dim", highlight=False)
    words.tell_profiles(answer.asked.profiles, console)


def _summary(answer: SimulateAnswer) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("policy", answer.policy)
    table.add_row("goodput", f"{answer.goodput:.2%} of {answer.requests:,}")
    table.add_row("begun in time", f"{answer.attainment:.2%} of {answer.requests:,}")
    table.add_row("GPU-hours", f"{answer.gpu_hours:,.3f}, busy for {answer.utilisation:.0%}")
    cost = "not known" if answer.cost_usd is None else f"${answer.cost_usd:,.2f}"
    table.add_row("cost", cost)
    table.add_row("scale actions", str(answer.scale_actions))
    table.add_row("refused, lent", f"{answer.refused:,}, {answer.lent:,}")
    chosen = ", ".join(f"{name} {value}" for name, value in answer.setting.items())
    table.add_row("setting", f"{chosen} (of {answer.settings_tried} tried)")
    return table


def _by_tier(answer: SimulateAnswer) -> Table:
    table = words.plain_table(f"SLO: {words.slo(answer.asked.slo)}")
    table.add_column("")
    for tier in answer.tiers:
        table.add_column(tier, justify="right")
    rows = (
        ("requests", lambda tier: number(tier.requests)),
        ("begun in time", lambda tier: percent(tier.attainment)),
        ("goodput", lambda tier: f"{percent(tier.goodput)}, {tier.goodput_per_s:.2f}/s"),
        ("TTFT p50 / p95", lambda tier: words.times(tier.ttft_s)),
        ("TPOT p50 / p95", lambda tier: words.times(tier.tpot_s)),
        ("E2E p50 / p95", lambda tier: words.times(tier.e2e_s)),
        ("output tokens/s", lambda tier: number(tier.output_tokens_per_s)),
        ("refused", lambda tier: counts(tier.refused)),
        ("relayed, lent", lambda tier: f"{tier.relayed:,}, {tier.lent:,}"),
    )
    for title, cell in rows:
        table.add_row(title, *(cell(tier) for tier in answer.tiers.values()))
    return table


def _by_card(answer: SimulateAnswer) -> Table:
    table = words.plain_table("Cards")
    for title in ("card", "GPU-hours", "cost", "$/hour", "price from", "profile"):
        figure = title in ("GPU-hours", "cost", "$/hour")
        table.add_column(title, justify="right" if figure else "left")
    for name, card in answer.cards.items():
        known = card.price_usd_per_hour is not None
        table.add_row(
            f"{answer.gpus[name]} {name}",
            f"{card.gpu_hours:,.3f}",
            "not known" if card.cost_usd is None else f"${card.cost_usd:,.2f}",
            f"{card.price_usd_per_hour:g}" if known else "not known",
            card.price_source or "",
            card.profile,
        )
    return table
