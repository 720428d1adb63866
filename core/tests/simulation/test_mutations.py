"""The simulator notices when a rule of the protocol is broken."""

import time
from collections.abc import Iterator

import pytest

from sinfonia.simulation.aimed_profiles import LOST_STORES, REPLICATED
from sinfonia.simulation.mutations.catalogue import MUTATIONS
from sinfonia.simulation.mutations.mutation import Mutation
from sinfonia.simulation.profile import PROFILES
from sinfonia.simulation.simulator import SimulationFailure
from sinfonia.simulation.workloads.minitransactions import simulated

SEEDS_MAX = 200

# A declared seed shows its mutation in a few seconds.  When a change of the protocol makes other
# runs of all declared ones, others are looked for.  That may take a busy machine some minutes; the
# deadline only ends a test that hangs.
SEARCH_S_MAX = 240.0
DEADLINE_S = 600


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
    tried: list[int] = []
    noticed = False
    with mutation.broken():
        for seed in _candidates(mutation):
            tried.append(seed)
            noticed = _fails(seed, mutation.profile)
            if noticed:
                break
    assert noticed, f"{len(tried)} runs did not notice the loss of: {mutation.rule}"
    for seed in {*mutation.seeds, tried[-1]}.intersection(tried):
        simulated(seed, mutation.profile).run()


def _candidates(mutation: Mutation) -> Iterator[int]:
    yield from mutation.seeds
    until = time.monotonic() + SEARCH_S_MAX
    for seed in range(1, SEEDS_MAX + 1):
        if seed not in mutation.seeds and time.monotonic() < until:
            yield seed


def _fails(seed: int, profile: str) -> bool:
    try:
        simulated(seed, profile).run()
    except SimulationFailure:
        return True
    return False
