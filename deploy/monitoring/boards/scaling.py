"""The dashboard of queue depth, decisions and starts."""

from deploy.monitoring.board import SELECTED, Board, Panel, Query, Row

S = SELECTED


def scaling_board() -> Board:
    """Queue depth, what was decided on it, how long a start takes."""
    return Board(
        "tierserve-scaling",
        "tierserve: scaling",
        "Queue depth, what the autoscaler decided on it, and how long a start takes.",
        (Row("Queue", _queue()), Row("Decisions", _decisions()), Row("Starts", _starts())),
    )


def _queue() -> tuple[Panel, ...]:
    return (
        Panel(
            "Queue depth",
            "short",
            (Query(f"tier:tierserve_queue_depth:sum{{{S}}}", "{{tier}}"),),
            "Requests accepted and not yet computing, at the gate and inside the engine.",
        ),
        Panel(
            "Slots",
            "short",
            (
                Query(f"tier:tierserve_running_sequences:sum{{{S}}}", "{{tier}} running"),
                Query(f"tier:tierserve_slots:sum{{{S}}}", "{{tier}} slots"),
            ),
            "A line while slots are free is a fault; refusals begin where running meets slots.",
        ),
        Panel(
            "Slots lent between tiers",
            "short",
            (
                Query(f"sum by (tier) (tierserve_lent_sequences{{{S}}})", "{{tier}} lends"),
                Query(f"sum by (tier) (tierserve_borrowed_sequences{{{S}}})", "{{tier}} borrows"),
            ),
            "Sequences of one tier that run in slots of the other.",
        ),
    )


def _decisions() -> tuple[Panel, ...]:
    def of_input(name: str) -> str:
        return f'tierserve_scaling_input{{{S},input="{name}"}}'

    return (
        Panel(
            "Replicas",
            "short",
            (
                Query(f"tierserve_scaling_wanted_replicas{{{S}}}", "{{tier}} wanted"),
                Query(f"tierserve_scaling_target_replicas{{{S}}}", "{{tier}} target"),
                Query(f"tierserve_replicas_reporting{{{S}}}", "{{tier}} reporting"),
            ),
            "Desired by the policy, set as Serve's target, and up. Target above reporting: a "
            "start, or a GPU that is missing.",
        ),
        Panel(
            "Arrivals and capacity",
            "reqps",
            (
                Query(of_input("arriving_rps"), "{{tier}} arriving"),
                Query(of_input("capacity_rps"), "{{tier}} capacity"),
            ),
            "In typical requests of the tier. Capacity is measured from the engine's steps.",
        ),
        Panel(
            "Backlog",
            "short",
            (Query(of_input("backlog_requests"), "{{tier}}"),),
            "Typical requests: what waits, and half of what runs.",
        ),
        Panel(
            "Utilisation",
            "percentunit",
            (Query(of_input("utilisation"), "{{tier}}"),),
            "Arrivals by capacity.",
        ),
        Panel(
            "Changes and holds",
            "short",
            (
                Query(
                    f"increase(tierserve_scaling_decisions_total{{{S}}}[10m])", "{{tier}} changes"
                ),
                Query(f"increase(tierserve_scaling_held_total{{{S}}}[10m])", "{{tier}} holds"),
            ),
            "Of the desired count within ten minutes. A hold: reports were missing, so the count "
            "stayed.",
        ),
        Panel(
            "Age of the newest decision",
            "s",
            (Query(f"time() - tierserve_scaling_decided_timestamp_seconds{{{S}}}", "{{tier}}"),),
            "Above a few seconds nothing decides: Serve's controller is stuck or gone.",
        ),
    )


def _starts() -> tuple[Panel, ...]:
    return (
        Panel(
            "Cold start by phase",
            "s",
            (
                Query(
                    f"max by (tier, phase) (tierserve_startup_seconds{{{S}}})", "{{tier}} {{phase}}"
                ),
            ),
            "The longest among the replicas that report. compile is a part of load; total is more "
            "than the sum.",
            width=12,
        ),
        Panel(
            "Replicas restarted in half an hour",
            "short",
            (Query(f"tier:tierserve_replicas_restarted:count30m{{{S}}}", "{{tier}}"),),
            "Replicas that came without an order to scale: crashes, or a deploy. No data in the "
            "first half hour.",
            width=6,
        ),
        Panel(
            "Settings refused",
            "short",
            (Query(f"max by (tier) (tierserve_settings_invalid{{{S}}})", "{{tier}}"),),
            "1 while the newest user_config is invalid and the one before holds.",
            width=6,
            limits=(0.5, 1),
        ),
    )
