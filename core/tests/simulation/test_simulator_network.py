"""The simulated surroundings do what they say: time, network, clocks and the choice of work."""

import random
from itertools import pairwise

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.asked_and_told import write_items
from sinfonia.minitransaction import Minitransaction
from sinfonia.simulation.clock import RATE_ERROR_MAX, RATES_DIFFER_BY, SteadyClock, uneven_clock
from sinfonia.simulation.network import Network, Weather
from sinfonia.simulation.profile import CAPACITY, random_profile
from sinfonia.simulation.scheduler import Scheduler
from sinfonia.simulation.workloads.mix import (
    HOT_BYTES,
    HOT_START,
    RING_BYTES,
    RING_START,
    WIDE_BYTES,
    WIDE_START,
    Beliefs,
    Mix,
)
from sinfonia.testing.model import ModelCluster, apply_minitransaction


class _Link:
    """A network with one listener, "b", and all that it heard."""

    def __init__(self, weather: Weather, seed: int = 1) -> None:
        self.scheduler = Scheduler()
        self.network: Network[int] = Network(self.scheduler, random.Random(seed), weather)
        self.heard: list[int] = []
        self.network.attach("b", lambda _source, message: self.heard.append(message))

    def send(self, messages: int) -> list[int]:
        for message in range(messages):
            self.network.send("a", "b", message)
        self.scheduler.run(until=100.0, stop=lambda: False)
        return self.heard


def test_callbacks_run_by_time_and_then_by_the_order_of_asking() -> None:
    scheduler, ran = Scheduler(), list[str]()
    scheduler.after(2.0, ran.append, "late")
    scheduler.after(1.0, ran.append, "first")
    scheduler.after(1.0, ran.append, "second")
    assert not scheduler.run(until=3.0, stop=lambda: False)
    assert ran == ["first", "second", "late"]
    assert scheduler.now == 3.0


def test_time_stops_where_it_is_told_to() -> None:
    scheduler, ran = Scheduler(), list[float]()
    for at in (1.0, 2.0, 3.0):
        scheduler.after(at, ran.append, at)
    assert scheduler.run(until=9.0, stop=lambda: len(ran) == 2)
    assert scheduler.now == 2.0


def test_the_trace_shows_the_last_events() -> None:
    scheduler = Scheduler()
    for number in range(5):
        scheduler.note("event", number)
    assert scheduler.trace(2) == [(0.0, ("event", 3)), (0.0, ("event", 4))]


def test_a_good_network_delivers_every_message_once_and_reorders() -> None:
    heard = _Link(Weather()).send(50)
    assert sorted(heard) == list(range(50))
    assert heard != sorted(heard)


def test_a_bad_network_loses_doubles_and_replays() -> None:
    link = _Link(Weather(loss=0.3, duplication=0.3, replay=0.3))
    heard = link.send(200)
    assert set(heard) < set(range(200))
    assert len(heard) > len(set(heard))
    traffic = link.network.traffic
    assert min(traffic.lost, traffic.duplicated, traffic.replayed) > 0


def test_a_cut_link_delivers_nothing_one_way_until_it_heals() -> None:
    link = _Link(Weather())
    back: list[int] = []
    link.network.attach("a", lambda _source, message: back.append(message))
    link.network.cut([("a", "b")])
    link.network.send("b", "a", 7)
    assert link.send(3) == []
    assert back == [7]
    link.network.heal()
    link.network.send("a", "b", 8)
    link.scheduler.run(until=200.0, stop=lambda: False)
    assert link.heard == [8]


def test_a_clogged_link_holds_up_what_it_delivers_when_it_is_unclogged() -> None:
    link = _Link(Weather())
    link.network.clog([("a", "b")])
    assert link.send(3) == []
    assert link.network.traffic.lost == 0
    link.network.unclog(("a", "b"))
    link.scheduler.run(until=200.0, stop=lambda: False)
    assert sorted(link.heard) == [0, 1, 2]
    assert link.network.clogged == []


def test_a_slow_link_delivers_everything_so_much_later() -> None:
    link = _Link(Weather(delay_mean=1e-6))
    link.network.slow["a", "b"] = 0.5
    link.network.send("a", "b", 1)
    link.scheduler.run(until=0.4999, stop=lambda: False)
    assert link.heard == []
    link.scheduler.run(until=0.6, stop=lambda: False)
    assert link.heard == [1]


def test_a_message_finds_the_next_life_of_a_process_but_not_a_dead_one() -> None:
    link = _Link(Weather())
    link.network.detach("b")
    assert link.send(3) == []
    reborn: list[int] = []
    link.network.send("a", "b", 9)
    link.network.attach("b", lambda _source, message: reborn.append(message))
    link.scheduler.run(until=200.0, stop=lambda: False)
    assert reborn == [9]


def test_the_same_seed_makes_the_same_network() -> None:
    weather = Weather(loss=0.2, duplication=0.2, replay=0.2, late=0.2)
    assert _Link(weather, seed=5).send(100) == _Link(weather, seed=5).send(100)
    assert _Link(weather, seed=5).send(100) != _Link(weather, seed=6).send(100)


def test_clocks_only_go_forward_and_drift_within_the_bound() -> None:
    for seed in range(20):
        clock = SteadyClock.random(random.Random(seed))
        shown = [clock.read(second) for second in range(100)]
        for one, next_one in pairwise(shown):
            assert abs(next_one - one - 1.0) < RATE_ERROR_MAX + 1e-6


def test_uneven_clocks_differ_by_what_the_protocol_allows_and_no_more() -> None:
    rates: list[float] = []
    for seed in range(40):
        clock = uneven_clock(random.Random(seed))
        shown = [clock.read(tenth / 10) for tenth in range(400)]
        rates += [(later - sooner) * 10 for sooner, later in pairwise(shown)]
    assert max(rates) / min(rates) == pytest.approx(1 + RATES_DIFFER_BY, abs=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_a_process_wakes_when_its_clock_says_so_however_its_rate_changes(seed: int) -> None:
    chance, clock = random.Random(seed), uneven_clock(random.Random(seed))
    for _ in range(50):
        now, seconds = chance.uniform(0.0, 60.0), chance.uniform(0.0, 20.0)
        shown = clock.read(now + clock.true_seconds(now, seconds))
        assert shown == pytest.approx(clock.read(now) + seconds, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_workload_stays_within_its_places_and_mixes_outcomes(seed: int) -> None:
    nodes = [MemoryNodeId(number) for number in range(3)]
    cluster = ModelCluster(memory_nodes=3, capacity=CAPACITY)
    workload, beliefs = Mix(random.Random(seed), nodes, words_per_node=2), Beliefs(nodes)
    outcomes: list[bool] = []
    for _ in range(300):
        minitransaction = Minitransaction(cluster, reads_on_failure=True)
        workload.fill(minitransaction, beliefs)
        for _node, address, data in write_items(minitransaction):
            hot = HOT_START <= address <= address + len(data) <= HOT_START + HOT_BYTES
            in_ring = RING_START <= address <= address + len(data) <= RING_START + RING_BYTES
            assert hot or in_ring or (address, len(data)) == (WIDE_START, WIDE_BYTES)
        result = apply_minitransaction(cluster.memory, minitransaction)
        if len(outcomes) % 3:
            beliefs.learn_from(minitransaction, result)
        outcomes.append(result.committed)
    assert 50 < sum(outcomes) < 300


def test_profiles_differ_and_replay_from_the_seed() -> None:
    profiles = [random_profile(random.Random(seed)) for seed in range(50)]
    assert len(set(profiles)) > 40
    assert profiles[7] == random_profile(random.Random(7))
    assert all(profile.minitransactions >= 50 for profile in profiles)
    alone = [profile for profile in profiles if not profile.replicas]
    assert alone != profiles
    assert not any(profile.node_kill_rate for profile in alone if not profile.logged)
