"""The real machines under every fault, seed by seed; what fails here says how to replay it."""

from collections import Counter

import pytest

from sinfonia.testing.history import Outcome
from sinfonia.testing.profile import TARGETED
from sinfonia.testing.simulator import Report, Simulation, SimulationFailure

SEEDS = 320
CHUNK = 20

# The least that a run is asked to do, besides the two reads of everything at its end.
MINITRANSACTIONS_MIN = 50


@pytest.mark.parametrize("first", range(1, SEEDS, CHUNK))
def test_no_fault_breaks_a_promise(first: int) -> None:
    for seed in range(first, first + CHUNK):
        report = Simulation(seed).run()
        assert report.outcomes.total() >= MINITRANSACTIONS_MIN


@pytest.mark.parametrize("profile", TARGETED)
def test_no_aimed_fault_breaks_a_promise(profile: str) -> None:
    for seed in range(1, 6):
        Simulation(seed, profile).run()


def test_a_seed_replays_everything() -> None:
    first, second = (Simulation(7, "everybody-dies") for _ in range(2))
    assert first.run() == second.run()
    assert first.recorder.operations == second.recorder.operations
    assert first.scheduler.trace(100_000) == second.scheduler.trace(100_000)


def test_the_runs_see_every_kind_of_fault_and_outcome() -> None:
    """What never happens is not tested."""
    events: Counter[str] = Counter()
    outcomes: Counter[Outcome] = Counter()
    lost = replayed = 0
    for seed in range(1000, 1060):
        report = Simulation(seed).run()
        events += report.events
        outcomes += report.outcomes
        lost += report.traffic.lost
        replayed += report.traffic.replayed
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
    assert expected <= events.keys()
    assert set(Outcome) <= outcomes.keys()
    assert lost
    assert replayed


def test_in_calm_weather_everything_has_an_outcome() -> None:
    report: Report = Simulation(3, "calm").run()
    assert report.outcomes[Outcome.UNKNOWN] == 0
    assert report.outcomes[Outcome.COMMITTED] > MINITRANSACTIONS_MIN / 2


def test_a_failure_says_what_happened_and_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = Simulation(11, "replays")
    monkeypatch.setattr(simulation, "_judge", _object)
    with pytest.raises(SimulationFailure) as failure:
        simulation.run()
    text = str(failure.value)
    assert text.startswith("AssertionError: I object")
    assert "ExecPrepare" in text
    assert text.endswith("reproduce with: make sim RUNS=1 SEED=11 PROFILE=replays")


def _object() -> None:
    raise AssertionError("I object")
