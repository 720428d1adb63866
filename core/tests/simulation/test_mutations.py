"""Whoever breaks a rule of the protocol hears of it from the simulator."""

from itertools import chain

import pytest

from sinfonia.simulation.aimed_profiles import LOST_STORES, REPLICATED
from sinfonia.simulation.mutations.catalogue import MUTATIONS
from sinfonia.simulation.profile import PROFILES
from sinfonia.simulation.simulator import SimulationFailure
from sinfonia.simulation.workloads.minitransactions import simulated

SEEDS_MAX = 200

# Each finishes in seconds on a quiet machine, as long as it is noticed where it was before; a
# mutation that is not runs through all seeds, and shall then say so and not run out of time.
DEADLINE_S = 900


def test_there_are_enough_mutations_and_each_says_its_rule() -> None:
    replicated = [each for each in MUTATIONS.values() if each.profile in REPLICATED | LOST_STORES]
    assert len(MUTATIONS) - len(replicated) >= 44
    assert len(replicated) >= 18
    assert all(mutation.rule.endswith(".") for mutation in MUTATIONS.values())
    assert {mutation.profile for mutation in MUTATIONS.values()} <= set(PROFILES)


@pytest.mark.slow
@pytest.mark.timeout(DEADLINE_S)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_noticed(name: str) -> None:
    """The same seeds pass as soon as the rule is whole again."""
    mutation = MUTATIONS[name]
    with mutation.broken():
        failing = _first_failing_seed(mutation.profile, mutation.seed)
    assert failing is not None, f"{SEEDS_MAX} runs did not notice the loss of: {mutation.rule}"
    for seed in range(min(mutation.seed, failing), failing + 1):
        simulated(seed, mutation.profile).run()


def _first_failing_seed(profile: str, first: int) -> int | None:
    for seed in chain(range(first, SEEDS_MAX + 1), range(1, first)):
        try:
            simulated(seed, profile).run()
        except SimulationFailure:
            return seed
    return None
