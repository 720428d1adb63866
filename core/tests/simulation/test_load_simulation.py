"""Progress under load, in the simulator: catching up, and doing without a slow disk."""

import pytest

from sinfonia.simulation.mutations.progress import PROGRESS_MUTATIONS
from sinfonia.simulation.simulator import SimulationFailure
from sinfonia.simulation.workloads.load import STORIES, simulated_load

SEEDS = 3
SEEDS_MAX = 20


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_things_get_better_while_clients_write(story: str, seed: int) -> None:
    simulated_load(seed, story).run()


def test_a_story_replays() -> None:
    first, second = (simulated_load(7, "return under load") for _ in range(2))
    assert first.run() == second.run()
    assert first.cluster.scheduler.trace(100_000) == second.cluster.scheduler.trace(100_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRESS_MUTATIONS)
def test_a_broken_rule_of_progress_is_noticed(name: str) -> None:
    mutation = PROGRESS_MUTATIONS[name]
    with mutation.broken():
        failing = _first_failing_seed(mutation.story)
    assert failing is not None, f"{SEEDS_MAX} runs did not notice {name}"
    for seed in range(1, failing + 1):
        simulated_load(seed, mutation.story).run()


def _first_failing_seed(story: str) -> int | None:
    for seed in range(1, SEEDS_MAX + 1):
        try:
            simulated_load(seed, story).run()
        except SimulationFailure:
            return seed
    return None
