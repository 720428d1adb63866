"""Readers that rely on hints end with the last value, whatever happens to the hints."""

from collections import Counter

import pytest

from sinfonia.simulation.profile import WITH_REPLICAS, WITHOUT_REPLICAS
from sinfonia.simulation.workloads.watches import simulated_watches

CHUNK = 15


def run(profile: str, seeds: range) -> Counter[str]:
    events: Counter[str] = Counter()
    for seed in seeds:
        events += simulated_watches(seed, profile).run().events
    return events


@pytest.mark.parametrize("profile", ["calm", WITHOUT_REPLICAS])
def test_readers_end_with_the_last_value(profile: str) -> None:
    assert run(profile, range(1, 4))["hints counted"]


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 60, CHUNK))
@pytest.mark.parametrize("profile", [WITHOUT_REPLICAS, WITH_REPLICAS])
def test_no_fault_deceives_a_reader_for_good(profile: str, first: int) -> None:
    events = run(profile, range(first, first + CHUNK))
    assert events["memory nodes killed"] > 10
    assert events["readers killed"] > 10
    assert events["hints counted"] > 50
