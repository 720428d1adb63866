"""The real machines under every fault, seed by seed; what fails here says how to replay it."""

import functools
from collections import Counter
from unittest.mock import patch

import pytest

from sinfonia.checking.history import Outcome
from sinfonia.simulation import simulator
from sinfonia.simulation.aimed_profiles import DAMAGED
from sinfonia.simulation.marks import MARKS
from sinfonia.simulation.profile import AIMED, LONG, WITH_REPLICAS, WITHOUT_REPLICAS
from sinfonia.simulation.simulator import Report, SimulationFailure
from sinfonia.simulation.workloads.minitransactions import simulated

SEEDS = 320
SEEDS_WITH_REPLICAS = 1000
CHUNK = 20

SEEDS_AIMED = 5

# Of so many runs, one may have left too many outcomes unknown to be judged.
RUNS_FOR_ONE_UNDECIDED = 1000

# What a long run must have done.
LONG_COMMITTED_MIN = 1500
LARGE_VALUE_BYTES = 200_000

# The least that a run is asked to do, besides the two reads of everything at its end.
MINITRANSACTIONS_MIN = 50


# A quarter of them is enough for `make check`, which is to take less than a minute.
@pytest.mark.parametrize(
    "first",
    [
        *range(1, SEEDS // 4, CHUNK),
        *(
            pytest.param(first, marks=pytest.mark.slow)
            for first in range(SEEDS // 4 + 1, SEEDS, CHUNK)
        ),
    ],
)
def test_no_fault_breaks_a_promise(first: int) -> None:
    _run_chunk(first, WITHOUT_REPLICAS, CHUNK)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, SEEDS_WITH_REPLICAS, CHUNK))
def test_no_fault_breaks_a_promise_of_replicated_memory_nodes(first: int) -> None:
    _run_chunk(first, WITH_REPLICAS, CHUNK)


@pytest.mark.parametrize("profile", AIMED)
def test_no_aimed_fault_breaks_a_promise(profile: str) -> None:
    _run_chunk(1, profile, 1)


@pytest.mark.slow
@pytest.mark.parametrize("profile", AIMED)
def test_no_aimed_fault_breaks_a_promise_in_some_more_runs(profile: str) -> None:
    _run_chunk(2, profile, SEEDS_AIMED - 1)


@pytest.mark.slow
def test_every_mark_is_reached() -> None:
    """What is never reached is not tested: by the seeds above, which are not run again."""
    reached: Counter[str] = Counter()
    for chunk in _chunks():
        reached += _run_chunk(*chunk)
        if reached.keys() >= set(MARKS):
            return
    raise AssertionError(f"never reached: {', '.join(set(MARKS) - reached.keys())}")


@pytest.mark.slow
def test_the_checker_gives_up_once_in_a_thousand_runs_at_most() -> None:
    """Of the runs above, which are not run again; what is undecided shows nothing."""
    chunks = _chunks()
    undecided = sum(_run_chunk(*chunk)["undecided"] for chunk in chunks)
    assert undecided <= sum(runs for _, _, runs in chunks) // RUNS_FOR_ONE_UNDECIDED


@pytest.mark.parametrize("profile", DAMAGED)
def test_no_damage_to_what_was_synced_breaks_a_promise(profile: str) -> None:
    for seed in range(1, 4):
        simulated(seed, profile).run()


@pytest.mark.slow
@pytest.mark.parametrize("profile", DAMAGED)
def test_no_damage_breaks_a_promise_in_some_more_runs(profile: str) -> None:
    reports = [simulated(seed, profile).run() for seed in range(4, 16)]
    assert not _events(reports)["undecided"], "the checker gives up too often"


@pytest.mark.slow
def test_the_runs_see_every_kind_of_damage() -> None:
    """What never happens is not tested."""
    events = _events([simulated(seed, name).run() for name in DAMAGED for seed in range(16, 24)])
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
    assert expected <= {event for event, times in events.items() if times}


@pytest.mark.parametrize(
    "profile", ["everybody-dies", "replicas-three-managers", "replicas-rotten-disks"]
)
def test_a_seed_replays_everything(profile: str) -> None:
    first, second = (simulated(7, profile) for _ in range(2))
    assert first.run() == second.run()
    assert first.cluster.recorder.operations == second.cluster.recorder.operations
    assert first.cluster.scheduler.trace(100_000) == second.cluster.scheduler.trace(100_000)


@pytest.mark.slow
def test_the_runs_see_every_kind_of_fault_and_outcome() -> None:
    """What never happens is not tested."""
    reports = [simulated(seed, WITHOUT_REPLICAS).run() for seed in range(1000, 1060)]
    expected = {
        "clients killed",
        "memory nodes killed",
        "memory nodes stopped by their disk",
        "managers killed",
        "pauses",
        "partitions",
        "failed syncs",
        "full disks",
        "outcomes unknown",
        "unknown outcomes found committed",
        "unknown outcomes found aborted",
    }
    assert expected <= _events(reports).keys()
    assert set(Outcome) <= {outcome for report in reports for outcome in report.outcomes}
    assert any(report.traffic.lost for report in reports)
    assert any(report.traffic.replayed for report in reports)


@pytest.mark.slow
def test_the_runs_see_everything_that_can_happen_to_replicas() -> None:
    """In all modes, with one manager and with several that quarrel."""
    reports = [simulated(seed, WITH_REPLICAS).run() for seed in range(2000, 2080)]
    reports += [simulated(seed, "replicas-three-managers").run() for seed in range(1, 41)]
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
    assert expected <= _events(reports).keys()
    modes = {report.profile.mode for report in reports}
    assert {"LOG-REPL", "NVRAM-REPL", "RAM-REPL"} <= modes


@pytest.mark.slow
def test_the_runs_see_every_kind_of_item_and_all_that_may_become_of_it() -> None:
    """Lines for locks in which some are served and some are not; rings that are full."""
    seen: Counter[str] = Counter()
    for profile in ("adds", "small-rings", "lines-for-locks", "dying-clients"):
        for seed in range(1, 6):
            simulation = simulated(seed, profile)
            with patch.object(simulator, "lose_power"):  # for after it nobody knows who waited
                simulation.run()
            for operation in simulation.cluster.recorder.operations:
                for compared in operation.compares:
                    seen[f"{type(compared).__name__} {operation.outcome.value}"] += 1
                for update in operation.updates:
                    seen[f"{type(update).__name__} {operation.outcome.value}"] += 1
                seen["full rings"] += bool(operation.full)
                seen["updates apart"] += len({update.node for update in operation.updates}) > 1
            for member in simulation.cluster.nodes:
                assert member.node is not None
                line = member.node.participant.one_phase.lock_waits
                seen["waited in vain"] += line.expired
                seen["waited and served"] += line.queued - line.expired
    kinds = ("Conditioned", "Added", "Appended")
    expected = {f"{kind} {outcome.value}" for kind in kinds for outcome in Outcome}
    expected |= {"full rings", "updates apart", "waited in vain", "waited and served"}
    assert expected <= {what for what, count in seen.items() if count}


def test_many_unknown_outcomes_of_overlapping_writes_can_be_judged() -> None:
    """Fifteen unknown writes over the same few words: their orders alone are too many to try."""
    assert simulated(20, "replicas-copies-in-pieces").run().outcomes[Outcome.UNKNOWN] >= 15


def test_in_calm_weather_everything_has_an_outcome() -> None:
    report: Report = simulated(3, "calm").run()
    assert report.outcomes[Outcome.UNKNOWN] == 0
    assert report.outcomes[Outcome.COMMITTED] > MINITRANSACTIONS_MIN / 2


def test_a_failure_says_what_happened_and_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = simulated(11, "replays")
    monkeypatch.setattr(simulation.workload, "judge", _object)
    with pytest.raises(SimulationFailure) as failure:
        simulation.run()
    text = str(failure.value)
    assert text.startswith("AssertionError: I object")
    assert "ExecPrepare" in text
    assert text.endswith("reproduce with: make sim RUNS=1 SEED=11 PROFILE=replays")


def _object(_cluster: object) -> None:
    raise AssertionError("I object")


@pytest.mark.slow
@pytest.mark.parametrize("profile", LONG)
def test_thousands_of_minitransactions_and_large_values_can_be_judged(profile: str) -> None:
    simulation = simulated(1, profile)
    report = simulation.run()
    assert not report.events["undecided"]
    assert report.events["memory nodes killed"] > len(simulation.cluster.nodes), (
        "only the last power cut"
    )
    committed = [
        each for each in simulation.cluster.recorder.operations if each.outcome is Outcome.COMMITTED
    ]
    assert len(committed) > LONG_COMMITTED_MIN
    sizes = [len(value) for each in committed for value in each.values]
    sizes += [len(item.data) for each in committed for item in each.writes]
    assert sum(size > LARGE_VALUE_BYTES for size in sizes) > 10


@functools.cache
def _run_chunk(first: int, profile: str, runs: int) -> Counter[str]:
    """What happened; each chunk is run once, whoever asks."""
    reports = [simulated(seed, profile).run() for seed in range(first, first + runs)]
    assert all(report.outcomes.total() >= MINITRANSACTIONS_MIN for report in reports)
    return _events(reports)


def _chunks() -> list[tuple[int, str, int]]:
    """All that the tests of this file run, seed by seed."""
    chunks = [(2, profile, SEEDS_AIMED - 1) for profile in AIMED]
    chunks += [(first, WITHOUT_REPLICAS, CHUNK) for first in range(1, SEEDS, CHUNK)]
    chunks += [(first, WITH_REPLICAS, CHUNK) for first in range(1, SEEDS_WITH_REPLICAS, CHUNK)]
    return chunks


def _events(reports: list[Report]) -> Counter[str]:
    events: Counter[str] = Counter()
    for report in reports:
        events += report.events
    return events
