"""What never happens is not tested: all runs of test_promises.py together meet everything.

These tests come last and make no runs of their own, if those of test_promises.py were made.
"""

import pytest

from sinfonia.checking.history import Outcome
from sinfonia.simulation.chunks import (
    AIMED_MORE,
    DAMAGED_FIRST,
    DAMAGED_MORE,
    PLAIN_CHUNKS,
    REPLICATED_CHUNKS,
    CountedRuns,
)
from sinfonia.simulation.marks import MARKS

pytestmark = pytest.mark.slow

# Of so many runs, one may have left too many outcomes unknown to be judged.
RUNS_FOR_ONE_UNDECIDED = 1000


def test_every_mark_is_reached(counted_runs: CountedRuns) -> None:
    missing = set(MARKS)
    for chunk in (*AIMED_MORE, *PLAIN_CHUNKS, *REPLICATED_CHUNKS):
        missing -= (+counted_runs.of(chunk)).keys()
        if not missing:
            return
    raise AssertionError(f"never reached: {', '.join(missing)}")


def test_the_checker_gives_up_once_in_a_thousand_runs_at_most(counted_runs: CountedRuns) -> None:
    """What is undecided shows nothing."""
    chunks = [*AIMED_MORE, *PLAIN_CHUNKS, *REPLICATED_CHUNKS]
    undecided = counted_runs.of_all(chunks)["undecided"]
    assert undecided <= sum(chunk.runs for chunk in chunks) // RUNS_FOR_ONE_UNDECIDED


def test_the_runs_see_every_kind_of_fault_and_outcome(counted_runs: CountedRuns) -> None:
    expected = {
        "clients killed",
        "memory nodes killed",
        "memory nodes stopped by their disk",
        "managers killed",
        "pauses",
        "partitions",
        "failed syncs",
        "full disks",
        "messages lost",
        "messages replayed",
        "outcomes unknown",
        "unknown outcomes found committed",
        "unknown outcomes found aborted",
        *(f"outcome {outcome.value}" for outcome in Outcome),
    }
    _assert_all_met(expected, counted_runs.of_all(PLAIN_CHUNKS))


def test_the_runs_see_everything_that_can_happen_to_replicas(counted_runs: CountedRuns) -> None:
    """In all modes, with one manager and with several that quarrel."""
    expected = {
        "clock steps",
        "copies begun",
        "copies finished",
        "fail-overs",
        "failed syncs",
        "full disks",
        "hand-overs",
        "logs pulled",
        "managers killed",
        "members cut off",
        "mode LOG-REPL",
        "mode NVRAM-REPL",
        "mode RAM-REPL",
        "primaries deposed",
        "primaries killed",
        "primaries stranded",
        "replicas removed",
        "replicas that blinked",
        "resignations",
        "slow disks",
        "slow links",
        "store away",
        "swizzles",
        "two managers lead",
    }
    _assert_all_met(expected, counted_runs.of_all(REPLICATED_CHUNKS))


def test_the_runs_see_every_kind_of_item_and_all_that_may_become_of_it(
    counted_runs: CountedRuns,
) -> None:
    """Lines for locks in which some are served and some are not; rings that are full."""
    profiles = ("adds", "small-rings", "lines-for-locks", "dying-clients")
    counts = counted_runs.of_all(chunk for chunk in AIMED_MORE if chunk.profile in profiles)
    kinds = ("Conditioned", "Added", "Appended")
    expected = {f"{kind} {outcome.value}" for kind in kinds for outcome in Outcome}
    expected |= {"full rings", "updates apart"}
    expected |= {"waited for locks in vain", "waited for locks and served"}
    _assert_all_met(expected, counts)


def test_the_runs_see_every_kind_of_damage(counted_runs: CountedRuns) -> None:
    expected = {
        "rotten",
        "ends of logs lost",
        "writes lost",
        "writes misdirected",
        "flushes that lied",
        "directories rolled back",
        "disks replaced",
        "damage noticed",
        "last copies damaged",
        "last copies rolled back",
        "rotten under a scrubber",
        "restarted when scrubbed",
    }
    _assert_all_met(expected, counted_runs.of_all([*DAMAGED_FIRST, *DAMAGED_MORE]))


def _assert_all_met(expected: set[str], counts: dict[str, int]) -> None:
    missing = {what for what in expected if not counts.get(what)}
    assert not missing, f"never: {', '.join(sorted(missing))}"
