"""Simulated clusters whose manager loses its store: nothing is lost, and all come to rest again."""

from collections import Counter

import pytest

from sinfonia.simulation.aimed_profiles import LOST_STORES
from sinfonia.simulation.workloads.minitransactions import simulated

SEEDS = 12


@pytest.mark.parametrize("profile", LOST_STORES)
def test_a_lost_store_breaks_no_promise(profile: str) -> None:
    simulated(1, profile).run()


@pytest.mark.slow
@pytest.mark.parametrize("profile", LOST_STORES)
def test_a_lost_store_breaks_no_promise_in_some_more_runs(profile: str) -> None:
    """And members have waited for the rebuild in some of them."""
    events: Counter[str] = Counter()
    for seed in range(2, SEEDS):
        events += simulated(seed, profile).run().events
    expected = {"stores lost", "stores rebuilt"}
    if LOST_STORES[profile].get("store_put_back_share"):
        expected = {"stores put back", "stores rebuilt"}
    if "mode" not in LOST_STORES[profile]:
        expected.add("members that waited")  # those that lose their memory do not die here
    assert expected <= events.keys()
