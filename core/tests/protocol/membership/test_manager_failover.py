"""Fail-over as managers decide it: one, several that share a store, and a store that fails them.

The members are played: they answer probes, or do not.  Managers, drivers and the shared store's
client are the real ones, on a clock that the test moves.
"""

import random
from dataclasses import dataclass, field

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.management.driver import ManagerDriver
from sinfonia.management.store import StoreConflict
from sinfonia.protocol.membership.election import Position
from sinfonia.protocol.membership.failure_detector import MemberLife
from sinfonia.protocol.membership.manager import ManagementRequest, Manager, ManagerSettings
from sinfonia.protocol.membership.messages import (
    Changed,
    Directory,
    HandOver,
    MemoryNodeEntry,
    NotLeading,
    Reconfigure,
    Reconfigured,
    Register,
    Registered,
    RemoveReplica,
    WantReplicas,
)
from sinfonia.protocol.messages import PROTOCOL_VERSION, Probe, ProbeReply, Replies, Reply, Requests
from sinfonia.simulation.scheduler import Scheduler
from sinfonia.simulation.store import LEASE_S, SimulatedStore, StoreClient

NODE = MemoryNodeId(0)
SETTINGS = ManagerSettings(fail_after=1.0)
STEP_S = 0.05


@dataclass
class PlayedMember:
    """It answers probes while it is ``up``, and keeps the newest directory that it is told."""

    endpoint: str
    identity: str
    starts: int = 1
    last: int = 0
    known_epoch: int = 0
    up: bool = True
    heard: list[Directory] = field(default_factory=list)

    def answer(self, batch: Requests) -> Replies | None:
        probes = [request for request in batch.requests if isinstance(request, Probe)]
        if not self.up or not probes:
            return None
        for probe in probes:
            if probe.directory is not None:
                self.heard.append(probe.directory)
        version = max((directory.version for directory in self.heard), default=0)
        reply = ProbeReply(
            NODE,
            [],
            True,
            version,
            self.identity,
            self.starts,
            self.last,
            probes[-1].sent_at,
            known_epoch=self.known_epoch,
        )
        entry = None if not self.heard else self.heard[-1].entry(NODE)
        return Replies(
            PROTOCOL_VERSION, NODE, 0 if entry is None else entry.incarnation, 0, [reply]
        )


class Town:
    """Managers that share a store, and the members of one memory node."""

    def __init__(self, managers: int = 1) -> None:
        self.scheduler = Scheduler()
        self.store = SimulatedStore(self.scheduler, random.Random(1))
        self.names = [f"manager{number}" for number in range(managers)]
        self.drivers: dict[str, ManagerDriver] = {}
        self.paused: set[str] = set()
        self.answers: dict[str, list[Reply]] = {name: [] for name in self.names}
        self.members: dict[str, PlayedMember] = {}
        for name in self.names:
            self.begin(name)

    @property
    def now(self) -> float:
        return self.scheduler.now

    @property
    def entry(self) -> MemoryNodeEntry:
        """What is stored."""
        client = StoreClient(self.store, "onlooker", cluster="town")
        found = client.directory.entry(NODE)
        assert found is not None
        return found

    def begin(self, name: str) -> None:
        client = StoreClient(self.store, name, cluster="town")
        manager = Manager(
            client=len(self.drivers),
            settings=SETTINGS,
            directory=client.directory,
            now=self.now,
            managers=self.names,
            leading=client.leading,
        )
        reply = self.answers[name].append
        self.drivers[name] = ManagerDriver(manager, client, reply=lambda _, answer: reply(answer))

    def manager(self, name: str) -> Manager:
        return self.drivers[name].manager

    def ask(self, request: ManagementRequest, name: str = "manager0") -> Reply | None:
        """What the manager answers; None if nothing."""
        driver = self.drivers[name]
        self.answers[name].clear()
        driver.carry_out(driver.manager.on_request(b"", request, self.now), self.now)
        if isinstance(request, HandOver):
            self._deliver(driver)  # it hears from the heir first
        return self.answers[name][-1] if self.answers[name] else None

    def join(self, endpoint: str, *, starts: int = 1, replicas: int = 2) -> PlayedMember:
        member = PlayedMember(endpoint, f"id-{endpoint}", starts)
        request = Register(
            node=NODE,
            endpoint=endpoint,
            capacity=1024,
            mode="LOG-REPL",
            identity=member.identity,
            starts=starts,
            empty=False,
            replicas=replicas,
        )
        answer = self.ask(request)
        assert isinstance(answer, Registered)
        assert not answer.refusal
        self.members[endpoint] = member
        return member

    def in_sync(self, *endpoints: str) -> None:
        """The primary has found these to be in sync."""
        entry = self.entry
        identities = [f"id-{endpoint}" for endpoint in endpoints]
        granted = self.ask(
            Reconfigure(
                node=NODE,
                incarnation=entry.incarnation,
                config_epoch=entry.config_epoch,
                in_sync=identities,
            )
        )
        assert isinstance(granted, Reconfigured)
        assert self.entry.in_sync == identities

    def all_in_sync(self) -> None:
        """The primary asks until it is so; its answers may be lost, too."""
        for _ in range(100):
            self.live(STEP_S)
            entry = self.entry
            identities = [member.identity for member in entry.replicas]
            if entry.in_sync == identities:
                return
            self.ask(
                Reconfigure(
                    node=NODE,
                    incarnation=entry.incarnation,
                    config_epoch=entry.config_epoch,
                    in_sync=identities,
                )
            )
        raise AssertionError("never in sync")

    def live(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self.now < until:
            self.scheduler.run(until=self.now + STEP_S, stop=lambda: False)
            for name in self.names:
                if name not in self.paused:
                    self.wake(name)

    def wake(self, name: str, *, refresh: bool = True) -> None:
        driver = self.drivers[name]
        if refresh:
            driver.refresh(self.now)
        driver.carry_out(driver.manager.on_tick(self.now), self.now)
        self._deliver(driver)

    def _deliver(self, driver: ManagerDriver) -> None:
        for node, endpoint, batch in driver.take_batches():
            member = self.members.get(endpoint)
            replies = None if member is None else member.answer(batch)
            if replies is not None:
                driver.carry_out(driver.manager.on_replies(node, replies, self.now), self.now)


def replicated_town(managers: int = 1) -> Town:
    """Primary a, in-sync replicas b and c, everybody well."""
    town = Town(managers)
    for endpoint in ("a", "b", "c"):
        town.join(endpoint)
    town.in_sync("b", "c")
    town.live(2.0)
    assert town.entry.endpoint == "a"
    return town


def test_a_primary_that_is_back_is_not_replaced_by_a_member_that_has_died_with_it() -> None:
    """What the heir said before may be true no more; if its disk is damaged, nobody is left."""
    town = replicated_town()
    for member in town.members.values():
        member.up = False
    returned = Register(
        node=NODE,
        endpoint="a",
        capacity=1024,
        mode="LOG-REPL",
        identity="id-a",
        starts=2,
        empty=False,
        replicas=2,
        lived=1,
        last=9,
    )
    waiting = town.ask(returned)
    assert isinstance(waiting, Registered)
    assert "at b, c" in waiting.waiting
    town.live(2 * SETTINGS.fail_after)
    assert town.entry.endpoint == "a"
    assert town.entry.in_sync == ["id-b", "id-c"]
    town.members["b"].up = True
    town.live(2 * SETTINGS.probe_interval)
    assert town.entry.endpoint == "b", "one that is there need not wait for the third"


def test_a_silent_primary_is_replaced_soon_and_every_member_is_told() -> None:
    town = replicated_town()
    town.members["c"].last = 9
    town.live(0.5)
    town.members["a"].up = False
    died = town.now
    while town.entry.endpoint == "a":
        town.live(STEP_S)
    assert town.now - died < SETTINGS.fail_after + 2 * SETTINGS.probe_interval
    assert town.entry.endpoint == "c", "the one with the longest log"
    assert town.entry.in_sync == ["id-b"]
    assert town.entry.incarnation == 2
    town.live(2 * STEP_S)
    version = town.manager("manager0").directory.version
    assert [town.members[name].heard[-1].version for name in "bc"] == [version] * 2
    assert town.manager("manager0").figures(town.now)["fail_overs"] == 1


def test_a_primary_that_speaks_but_does_not_hear_keeps_its_replicas_and_is_replaced() -> None:
    """Found on a one-way partition: it gave up its replicas just before it was given up itself, so
    that nobody could take over, and it could not hear that it might serve alone."""
    town = replicated_town()
    town.members["a"].up = False
    town.live(SETTINGS.fail_after * 0.75)
    entry = town.entry
    town.ask(
        Reconfigure(
            node=NODE, incarnation=entry.incarnation, config_epoch=entry.config_epoch, in_sync=[]
        )
    )
    assert town.entry.in_sync == entry.in_sync, "not granted: it does not answer probes"
    town.live(SETTINGS.fail_after)
    assert town.entry.endpoint in ("b", "c")


def test_no_primary_is_replaced_that_answers_or_whose_replicas_do_not() -> None:
    town = replicated_town()
    town.live(5.0)
    assert town.entry.endpoint == "a"
    for member in town.members.values():
        member.up = False
    town.live(5.0)
    assert town.entry.endpoint == "a"
    town.members["b"].up = True
    town.live(1.0)
    assert town.entry.endpoint == "b", "it is enough that one comes back"


def test_a_replica_that_is_not_in_sync_never_takes_over() -> None:
    town = replicated_town()
    town.in_sync()
    town.members["a"].up = False
    town.live(5.0)
    assert town.entry.endpoint == "a"


def test_a_primary_that_was_replaced_comes_back_as_a_replica() -> None:
    town = replicated_town()
    town.members["a"].up = False
    town.live(2.0)
    town.join("a", starts=2)
    assert "id-a" in [member.identity for member in town.entry.replicas]
    assert "id-a" not in town.entry.in_sync


def test_a_manager_that_has_just_begun_waits_before_it_judges() -> None:
    town = replicated_town()
    town.members["a"].up = False
    town.begin("manager0")
    town.live(SETTINGS.fail_after - 2 * STEP_S)
    assert town.entry.endpoint == "a"
    town.live(1.0)
    assert town.entry.endpoint != "a"


def test_a_manager_that_stood_still_gives_every_member_a_new_chance() -> None:
    town = replicated_town()
    town.paused.add("manager0")
    town.live(10.0)
    town.paused.clear()
    town.live(3.0)
    assert town.entry.endpoint == "a"


def test_a_member_that_was_removed_is_told_so_and_asks_in_vain() -> None:
    town = replicated_town()
    assert town.ask(RemoveReplica(NODE, "b")) == Changed()
    town.live(0.5)
    last_heard = town.members["b"].heard[-1].entry(NODE)
    assert last_heard == town.entry
    again = town.ask(
        Register(
            node=NODE,
            endpoint="b",
            capacity=1024,
            mode="LOG-REPL",
            identity="id-b",
            starts=2,
            empty=False,
            replicas=2,
        )
    )
    assert isinstance(again, Registered)
    assert "replicas that are wanted" in again.refusal


def test_operators_are_answered_and_may_repeat_themselves() -> None:
    town = replicated_town()
    for _ in range(2):
        assert town.ask(HandOver(NODE, "b")) == Changed()
        assert town.entry.endpoint == "b"
        assert town.ask(WantReplicas(NODE, 3)) == Changed()
    unknown = town.ask(WantReplicas(MemoryNodeId(9), 3))
    assert unknown == Changed("there is no memory node 9")


def test_nothing_is_handed_over_to_a_member_that_has_just_died() -> None:
    """It answered a moment ago and counts as alive; but if all data are in memory, what the old
    primary gives up and the new one has lost is lost."""
    town = replicated_town()
    town.members["b"].up = False
    assert town.ask(HandOver(NODE, "b")) is None
    town.live(SETTINGS.fail_after / 2)
    assert town.entry.endpoint == "a"
    assert town.answers["manager0"] == []
    town.live(SETTINGS.fail_after)
    [refused] = town.answers["manager0"]
    assert isinstance(refused, Changed)
    assert "at b does not answer; start it first" in refused.refusal
    assert town.entry.endpoint == "a"


def test_a_manager_that_no_longer_leads_hands_nothing_over() -> None:
    town = replicated_town()
    town.members["b"].up = False
    assert town.ask(HandOver(NODE, "b")) is None
    manager = town.manager("manager0")
    manager.on_leadership(leading=False, leader="other", now=town.now)
    town.members["b"].up = True
    town.wake("manager0", refresh=False)
    assert town.answers["manager0"] == [NotLeading("other")]
    assert town.entry.endpoint == "a"


def test_an_answer_that_was_long_under_way_shows_nothing() -> None:
    """Found by the simulator (seed 258): replayed answers of a dead member made it the heir of a
    living primary, with all data in memory."""
    town = replicated_town()
    manager = town.manager("manager0")
    for name in "bc":
        town.members[name].up = False
    died = town.now
    town.live(SETTINGS.fail_after * 2)
    town.members["a"].up = False
    town.live(SETTINGS.fail_after / 2)
    for name in "bc":
        member = town.members[name]
        old = ProbeReply(NODE, [], True, 9, member.identity, member.starts, 99, died - 0.1)
        replies = Replies(PROTOCOL_VERSION, NODE, 0, 0, [old])
        manager.on_replies(NODE, replies, town.now)
    town.live(SETTINGS.fail_after * 2)
    assert town.entry.endpoint == "a", "nobody is there who could take over"
    assert manager.figures(town.now)["members_alive"] == 0


def test_a_life_that_is_known_to_have_ended_stays_dead_whatever_comes_of_it() -> None:
    town = replicated_town()
    life = MemberLife(NODE, "id-b", 1)
    detector = town.manager("manager0")._detector
    assert detector.is_alive(life, town.now)
    detector.on_death(life)
    detector.on_answer(life, position=Position(1, 1), directory_version=1, asked_at=town.now)
    assert not detector.is_alive(life, town.now)


# --- a primary that comes back -------------------------------------------------------------------


def back_again(town: Town, *, last: int, name: str = "a") -> Registered:
    """The primary ``name`` registers in its second life, whose log ends with record ``last``."""
    answer = town.ask(
        Register(
            node=NODE,
            endpoint=name,
            capacity=1024,
            mode="LOG-REPL",
            identity=f"id-{name}",
            starts=2,
            empty=False,
            lived=0,
            last=last,
            life=9,
        )
    )
    assert isinstance(answer, Registered)
    assert not answer.refusal
    return answer


def test_a_primary_that_is_back_leads_when_no_in_sync_replica_holds_more() -> None:
    town = replicated_town()
    town.members["b"].last = town.members["c"].last = 10
    town.members["a"].up = False
    assert "waits for its in-sync replica at b, c" in back_again(town, last=10).waiting
    town.live(0.2)
    assert town.entry.starts == 1, "nothing was decided without it"
    answer = back_again(town, last=10)
    assert not answer.waiting
    assert (town.entry.endpoint, town.entry.starts, town.entry.life) == ("a", 2, 9)


def test_a_primary_that_is_back_with_less_follows_the_replica_that_holds_most() -> None:
    town = replicated_town()
    town.members["b"].last, town.members["c"].last = 10, 11
    town.members["a"].up = False
    back_again(town, last=9)
    town.live(0.2)
    back_again(town, last=9)
    assert town.entry.endpoint == "c"
    assert town.entry.in_sync == ["id-b"]


def test_what_a_replica_told_before_the_primary_was_back_does_not_count() -> None:
    """It may have acknowledged more since."""
    town = replicated_town()
    asked_before = town.now
    town.members["a"].up = False
    for name in "bc":
        town.members[name].up = False
    town.live(0.1)
    back_again(town, last=10)
    for name in "bc":
        member = town.members[name]
        old = ProbeReply(NODE, [], True, 9, member.identity, 1, 5, asked_before)
        town.manager("manager0").on_replies(
            NODE, Replies(PROTOCOL_VERSION, NODE, 0, 0, [old]), town.now
        )
    assert back_again(town, last=10).waiting


def test_a_primary_that_is_back_waits_for_an_in_sync_replica_that_is_away() -> None:
    town = replicated_town()
    town.ask(RemoveReplica(NODE, "c", force=True))
    town.members["a"].up = town.members["b"].up = False
    town.live(0.1)
    for _ in range(60):
        answer = back_again(town, last=10)
        town.live(0.05)
    assert "at b to say" in answer.waiting
    assert isinstance(town.ask(RemoveReplica(NODE, "b", force=True)), Changed)
    assert not back_again(town, last=10).waiting, "an operator has given the replica up"
    assert (town.entry.endpoint, town.entry.starts) == ("a", 2)


def test_a_proven_replica_takes_over_from_a_primary_that_is_back_and_must_wait() -> None:
    town = replicated_town()
    town.members["a"].up = town.members["b"].up = False
    for _ in range(60):
        back_again(town, last=10)
        town.live(0.05)
    assert town.entry.endpoint == "c", "it has run all the time, so that it holds everything"


def test_a_restarted_replica_takes_over_only_when_the_primary_has_proven_it() -> None:
    town = replicated_town()
    town.ask(RemoveReplica(NODE, "c", force=True))
    town.members["c"].up = False
    again = Register(
        node=NODE,
        endpoint="b",
        capacity=1024,
        mode="LOG-REPL",
        identity="id-b",
        starts=2,
        empty=False,
        life=9,
    )
    town.ask(again)
    town.members["b"].starts = 2
    assert [each.unproven for each in town.entry.replicas] == [True]
    town.members["a"].up = False
    town.live(SETTINGS.fail_after * 3)
    assert town.entry.endpoint == "a", "b may hold less"
    town.members["a"].up = True
    town.live(0.5)
    entry = town.entry
    town.ask(
        Reconfigure(
            node=NODE,
            incarnation=entry.incarnation,
            config_epoch=entry.config_epoch,
            in_sync=["id-b"],
            proven=["id-b"],
        )
    )
    town.members["a"].up = False
    town.live(SETTINGS.fail_after * 3)
    assert town.entry.endpoint == "b"


def test_a_manager_that_is_told_of_a_later_configuration_decides_nothing_any_more() -> None:
    """Its store was put back from an older copy while the members ran on."""
    town = replicated_town()
    town.members["b"].known_epoch = town.entry.config_epoch + 1
    town.live(0.5)
    assert town.manager("manager0").figures(town.now)["behind_members"] == 1
    town.members["a"].up = False
    town.live(SETTINGS.fail_after * 3)
    assert town.entry.endpoint == "a", "c is in sync by the old copy only"
    assert "rebuild-manager" in back_again(town, last=99).waiting
    for request in (HandOver(NODE, "c"), RemoveReplica(NODE, "c", force=True)):
        answer = town.ask(request)
        assert isinstance(answer, Changed)
        assert "rebuild-manager" in answer.refusal


def test_what_a_stranger_has_seen_says_nothing_of_the_store() -> None:
    town = replicated_town()
    manager = town.manager("manager0")
    strange = ProbeReply(NODE, [], True, 9, "stranger", 1, 0, town.now, known_epoch=10**6)
    manager.on_replies(NODE, Replies(PROTOCOL_VERSION, NODE, 0, 0, [strange]), town.now)
    assert manager.figures(town.now)["behind_members"] == 0


def test_the_directory_names_all_managers() -> None:
    town = replicated_town(managers=2)
    town.live(1.0)
    assert town.manager("manager1").directory.managers == ["manager0", "manager1"]


# --- several managers ----------------------------------------------------------------------------


def test_one_manager_leads_and_the_others_say_who() -> None:
    town = replicated_town(managers=3)
    assert [town.manager(name).leading for name in town.names] == [True, False, False]
    assert town.ask(HandOver(NODE, "b"), "manager2") == NotLeading("manager0")


def test_when_the_leader_dies_another_one_fails_over() -> None:
    town = replicated_town(managers=2)
    town.names.remove("manager0")
    town.members["a"].up = False
    town.live(LEASE_S + SETTINGS.fail_after + 1.0)
    assert town.manager("manager1").leading
    assert town.entry.endpoint in ("b", "c")


def test_of_two_managers_that_both_believe_to_lead_only_one_has_its_way() -> None:
    town = replicated_town(managers=2)
    for name in town.names:
        town.manager(name).on_leadership(leading=True, leader=name, now=town.now)
        town.wake(name, refresh=False)
    before = town.entry
    assert town.ask(HandOver(NODE, "b"), "manager0") == Changed()
    # The other one has read what was stored before, and decides on that.
    assert town.manager("manager1").entry(NODE) == before
    assert town.ask(HandOver(NODE, "c"), "manager1") is None, "the answer was dropped"
    assert town.manager("manager1").entry(NODE) == town.entry
    assert town.entry.endpoint == "b"
    assert town.entry.incarnation == before.incarnation + 1


def test_two_managers_that_both_fail_over_agree_on_one_primary() -> None:
    town = replicated_town(managers=2)
    town.members["a"].up = False
    for _ in range(60):
        town.scheduler.run(until=town.now + STEP_S, stop=lambda: False)
        for name in town.names:
            town.manager(name).on_leadership(leading=True, leader=name, now=town.now)
            town.wake(name, refresh=False)
    assert town.entry.endpoint in ("b", "c")
    assert town.entry.incarnation == 2, "it happened once"
    assert town.manager("manager0").entry(NODE) == town.manager("manager1").entry(NODE)
    assert sum(town.manager(name).fail_overs for name in town.names) == 1


# --- a store that is away ------------------------------------------------------------------------


def test_nothing_is_changed_or_promised_while_the_store_is_away() -> None:
    town = replicated_town()
    before = town.entry
    town.store.away_from.add("manager0")
    town.manager("manager0").on_leadership(leading=True, leader="", now=town.now)
    assert town.ask(HandOver(NODE, "b")) is None
    town.members["a"].up = False
    told = len(town.members["b"].heard)
    for _ in range(60):
        town.scheduler.run(until=town.now + STEP_S, stop=lambda: False)
        town.wake("manager0", refresh=False)
    assert town.entry == before
    assert town.manager("manager0").entry(NODE) == before
    assert all(directory.entry(NODE) == before for directory in town.members["b"].heard[told:]), (
        "what is not stored is told to nobody"
    )
    town.store.away_from.clear()
    town.live(5.0)
    assert town.entry.endpoint in ("b", "c"), "it is made up for when the store is back"


def test_probing_goes_on_while_the_store_is_away() -> None:
    town = replicated_town()
    town.store.away_from.add("manager0")
    town.live(LEASE_S + 1.0)
    manager = town.manager("manager0")
    assert not manager.leading
    assert manager.figures(town.now)["memory_nodes_serving"] == 1
    assert [town.members[name].up for name in "abc"] == [True] * 3
    town.members["a"].up = False
    town.live(2.0)
    assert manager.figures(town.now)["fail_overs"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_swap_without_an_answer_is_looked_up_before_anything_else(seed: int) -> None:
    """Whatever the store did, in the end it holds one consistent history of changes."""
    town = replicated_town()
    chance = random.Random(seed)
    town.store._rng = chance
    town.store.answers_lost = 0.5
    done = 0
    for _ in range(40):
        primary = town.entry.endpoint
        town.live(0.3)
        town.all_in_sync()
        target = chance.choice([name for name in "abc" if name != primary])
        before = town.entry
        if town.ask(HandOver(NODE, target)) == Changed():
            done += 1
            assert town.entry.endpoint == target, "what was promised is stored"
        after = town.entry
        assert after.incarnation - before.incarnation == (after.endpoint != before.endpoint)
    assert done
    town.store.answers_lost = 0.0
    town.live(1.0)
    assert town.manager("manager0").entry(NODE) == town.entry


def test_a_store_client_that_lost_the_race_knows_what_is_stored() -> None:
    town = Town(managers=2)
    first, second = (town.drivers[name].store for name in town.names)
    first.replace(Directory(first.directory.version + 1, 1, "town", []))
    with pytest.raises(StoreConflict):
        second.replace(Directory(second.directory.version + 1, 5, "town", []))
    assert second.directory == first.directory
