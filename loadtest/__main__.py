"""`python -m loadtest`: what a server holds, how well it answers, what a set of GPUs can take."""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from loadtest.errors import INTERRUPTED, MeasurementError, UserError


@dataclass(frozen=True, slots=True)
class Command:
    """Its module has `DESCRIPTION`, `add_options(parser)` and `run(options, argv, console)`, which
    returns the exit status; it may have `EPILOG` and `HELP_FORMAT` for `--help`, and say in
    `ON_INTERRUPT` what Ctrl-C leaves. It is imported when it is named: `--help` waits for no
    other."""

    name: str
    module: str
    summary: str

    def load(self) -> Any:
        return importlib.import_module(f"loadtest.{self.module}")


COMMANDS = (
    Command("run", "load.command", "load on any OpenAI server: latencies, goodput, refusals"),
    Command("generator-limit", "load.limit", "what `run` itself can read"),
    Command("soak", "soak.command", "hours of mixed load with faults in turn: leaks, recovery"),
    Command("eval", "evaluation.command", "accuracy, tokens and latency on mathematics problems"),
    Command("compare", "evaluation.compare", "two served models on the same problems, in turn"),
    Command("budget-curve", "evaluation.budget_curve", "accuracy by thinking budget"),
    Command("answers", "evaluation.answers", "accuracy against tokens of the answer policies"),
    Command("deadlines", "studies.deadlines", "right answers in time, beside fixed budgets"),
    Command("capacity", "simulation.capacity", "what load GPUs sustain within an SLO"),
    Command("plan", "simulation.plan", "which GPUs a load needs, and what they cost"),
    Command("simulate", "simulation.command", "a scaling policy on recorded traffic"),
    Command("bench-scaling", "simulation.bench_scaling", "all scaling policies on all cases"),
    Command("calibrate", "calibration.command", "the profile of a GPU, from a running server"),
    Command("validate", "calibration.validate_command", "three loads for real and simulated"),
    Command("card", "gpu_record.command", "all that this machine's GPU can show, in one go"),
    Command("fetch-traces", "traces.fetch", "public traces of LLM traffic"),
    Command("overhead", "studies.overhead.command", "baseline vLLM, tierserve and Ray's own ways"),
    Command("key-overhead", "studies.key_overhead", "what a key and its quota add to the TTFT"),
    Command("gateway-speed", "studies.gateway_speed", "what one process of `/v1` forwards"),
    Command("gateway-memory", "studies.gateway_memory", "what streams of `/v1` take of memory"),
    Command("fairness", "studies.fairness", "a light key's TTFT alone and beside a flooding key"),
    Command("gate-promise", "studies.gate_promise", "the gate's promises on a server in overload"),
    Command("prefixes", "studies.prefixes.command", "conversations that find their prefix again"),
    Command("speculation", "studies.speculation", "an engine that drafts, and one that does not"),
    Command("tabs", "studies.tab_cost", "what open status tabs take from the chat beside them"),
    Command("readme", "studies.overhead.readme", "write the overhead tables from the results"),
    Command("replay-scaling", "studies.replay_scaling.command", "scaling on real Ray in real time"),
    Command("cold-start", "studies.cold_start", "a replica's start, eager and compiled"),
    Command("engine-start", "studies.engine_start", "an engine's start against another checkout's"),
    Command("faults", "studies.faults", "kill parts under load and count what it costs"),
    Command(
        "continuity", "studies.continuity.command", "streams whose replica dies or is replaced"
    ),
    Command("first-run", "studies.first_run", "a clean clone, `make serve`, curl, `make test`"),
    Command("train-micro-r1", "studies.micro_r1.command", "train the embedded reasoning model"),
    Command("train-micro-r2", "studies.micro_r2.command", "train the one of graded problems"),
)
BY_NAME = {command.name: command for command in COMMANDS}


def main(argv: list[str]) -> int:
    """The exit status; the one boundary for what users and machines do wrong."""
    console = Console()
    options = make_parser(argv).parse_args(argv)
    module = BY_NAME[options.command].load()
    try:
        return module.run(options, argv, console)
    except (UserError, MeasurementError) as error:
        details = getattr(error, "__notes__", ())
        message = "\n".join([str(error), *details])
        console.print(message, style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        message = getattr(module, "ON_INTERRUPT", "Interrupted.")
        console.print(message, style="bold yellow", highlight=False, soft_wrap=True)
        return INTERRUPTED


def make_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """With the options of the command that `argv` names; of the others only their summaries."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        if argv and argv[0] == command.name:
            module = command.load()
            own = commands.add_parser(
                command.name,
                description=module.DESCRIPTION,
                epilog=getattr(module, "EPILOG", None),
                formatter_class=getattr(
                    module, "HELP_FORMAT", argparse.ArgumentDefaultsHelpFormatter
                ),
            )
            module.add_options(own)
        else:
            commands.add_parser(command.name, help=command.summary)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    return make_parser(argv).parse_args(argv)


if __name__ == "__main__":
    # As Ctrl-C: what a command has frozen goes on, and what it has started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
