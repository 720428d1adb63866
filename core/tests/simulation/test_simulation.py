"""The real machines under every fault, seed by seed; what fails here says how to replay it."""

import pytest

from sinfonia.checking.history import Outcome
from sinfonia.simulation.chunks import MINITRANSACTIONS_MIN
from sinfonia.simulation.profile import LONG
from sinfonia.simulation.simulator import Report, SimulationFailure
from sinfonia.simulation.workloads.minitransactions import simulated

# What a long run must have done.
LONG_COMMITTED_MIN = 1500
LARGE_VALUE_BYTES = 200_000


@pytest.mark.parametrize(
    "profile", ["everybody-dies", "replicas-three-managers", "replicas-rotten-disks"]
)
def test_a_seed_replays_everything(profile: str) -> None:
    first, second = (simulated(7, profile) for _ in range(2))
    assert first.run() == second.run()
    assert first.cluster.recorder.operations == second.cluster.recorder.operations
    assert first.cluster.scheduler.trace(100_000) == second.cluster.scheduler.trace(100_000)


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
