# ruff: noqa: T201 - a command
"""``python -m sinfonia.simulation``: many simulated runs, until one goes wrong.

First come the marks, and how often each was reached; the last line sums up.  Exit code 1: a run
failed, and what is printed says how to replay it.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from sinfonia.checking.history import Outcome
from sinfonia.simulation.marks import MARKS
from sinfonia.simulation.mutations.catalogue import MUTATIONS
from sinfonia.simulation.profile import PROFILES
from sinfonia.simulation.simulator import SimulationFailure
from sinfonia.simulation.workloads.minitransactions import simulated


def main() -> int:
    """Run the simulations that the command line asks for."""
    arguments = _arguments()
    profile = arguments.profile
    broken: Callable[[], AbstractContextManager[None]] = nullcontext
    if arguments.mutation:
        mutation = MUTATIONS[arguments.mutation]
        profile, broken = profile or mutation.profile, mutation.broken
        print(f"broken on purpose: {mutation.rule}")
    started = time.perf_counter()
    outcomes: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        try:
            with broken():
                report = simulated(seed, profile).run()
        except SimulationFailure as failure:
            print(f"seed {seed} failed: {failure}", file=sys.stderr)
            return 1
        outcomes.update({outcome.value: n for outcome, n in report.outcomes.items()})
        events += report.events
        events["messages lost"] += report.traffic.lost
    elapsed = time.perf_counter() - started
    for mark in MARKS:
        print(f"{events.pop(mark, 0):8} {mark}")
    done = ", ".join(f"{outcomes[outcome.value]} {outcome.value}" for outcome in Outcome)
    struck = ", ".join(f"{number} {event}" for event, number in sorted(events.items()))
    print(
        f"{arguments.runs} runs ok: {outcomes.total()} minitransactions ({done}); {struck}; "
        f"{arguments.runs / elapsed:.1f} runs/s"
    )
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="simulate clusters under faults, seed by seed")
    parser.add_argument("--runs", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument(
        "--profile",
        default="",
        choices=["", *PROFILES],
        help="what goes wrong (default: drawn)",
    )
    parser.add_argument(
        "--mutation", choices=sorted(MUTATIONS), help="break this rule of the real code first"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
