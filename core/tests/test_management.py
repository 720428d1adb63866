"""The manager: who may come back as a memory node, and that nothing stays undecided."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.effects import ReplyTo, SendTo, StoreDirectory
from sinfonia.protocol.management import Manager, ManagerEffect, ManagerSettings
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    STARTS_BITS,
    Answer,
    CommitAck,
    Directory,
    Forget,
    Probe,
    ProbeReply,
    Recreate,
    Register,
    Registered,
    Replies,
    Reply,
    Resolve,
    Resolved,
    Unsettled,
)
from sinfonia.protocol.recovery import Outcome, RecoveryCoordinator
from sinfonia.testing.parties import tid

N0, N1 = MemoryNodeId(0), MemoryNodeId(1)


def registration(
    *, node: int = 0, mode: str = "LOG", identity: str = "mine", starts: int = 1
) -> Register:
    return Register(
        MemoryNodeId(node), f"tcp://h{node}:1", 1024, mode, identity, starts, mode == "RAM"
    )


class Office:
    """A manager and its store."""

    def __init__(self) -> None:
        self.stored = Directory(0, 0, "test", [])
        self.manager = Manager(client=1, settings=ManagerSettings(), directory=self.stored, now=0.0)

    def carry_out(self, effects: list[ManagerEffect]) -> list[SendTo]:
        for effect in effects:
            if isinstance(effect, StoreDirectory):
                assert effect.directory.version == self.stored.version + 1
                self.stored = effect.directory
        return [effect for effect in effects if isinstance(effect, SendTo)]

    def register(self, request: Register) -> Registered:
        effects = self.manager.on_register(b"route", request)
        self.carry_out(effects)
        [answer] = [effect.reply for effect in effects if isinstance(effect, ReplyTo)]
        assert isinstance(answer, Registered)
        return answer

    def hear(self, node: MemoryNodeId, *replies: Reply, now: float = 0.0) -> list[SendTo]:
        entry = self.manager.entry(node)
        assert entry is not None
        batch = Replies(PROTOCOL_VERSION, node, entry.incarnation, 0, list(replies))
        return self.carry_out(self.manager.on_replies(node, batch, now))

    def restart(self) -> None:
        """The manager dies; the next one has only what was stored."""
        self.manager = Manager(client=2, settings=ManagerSettings(), directory=self.stored, now=0.0)


def test_a_memory_node_is_in_the_store_before_it_is_welcomed() -> None:
    effects = Office().manager.on_register(b"route", registration())
    assert [type(effect) for effect in effects] == [StoreDirectory, ReplyTo, SendTo]


def test_a_repeated_registration_changes_nothing() -> None:
    office = Office()
    first = office.register(registration())
    assert office.register(registration()) == first
    assert office.stored.version == 1


def test_a_restart_is_a_later_incarnation() -> None:
    office = Office()
    first = office.register(registration())
    office.restart()
    second = office.register(registration(starts=2))
    assert not second.refusal
    assert second.incarnation > first.incarnation


def test_a_memory_node_that_kept_its_data_in_memory_may_not_come_back_empty() -> None:
    office = Office()
    office.register(registration(mode="RAM"))
    office.restart()
    answer = office.register(registration(mode="RAM", starts=2))
    assert "without its data" in answer.refusal
    assert "sinfonia recreate CLUSTER 0" in answer.refusal


def test_another_data_directory_may_not_come_back_as_a_known_memory_node() -> None:
    office = Office()
    office.register(registration())
    assert "another data directory" in office.register(registration(identity="other")).refusal


def test_a_process_that_was_overtaken_by_its_own_restart_is_refused() -> None:
    office = Office()
    office.register(registration(starts=2))
    assert "out of date" in office.register(registration(starts=1)).refusal


@pytest.mark.parametrize("identity", ["mine", "new disk"])
def test_an_operator_may_accept_the_loss_and_the_new_life_is_later_than_all_before(
    identity: str,
) -> None:
    office = Office()
    old = office.register(registration(mode="RAM", starts=7))
    effects = office.manager.on_recreate(b"route", Recreate(N0))
    office.carry_out(effects)
    office.restart()
    new = office.register(registration(mode="RAM", identity=identity, starts=1))
    assert not new.refusal
    assert new.incarnation > old.incarnation
    assert new.incarnation == 1 << STARTS_BITS | 1


def test_what_is_in_doubt_is_settled_and_then_forgotten_by_all() -> None:
    office = Office()
    office.register(registration(node=0))
    office.register(registration(node=1, identity="other"))
    found = ProbeReply(N0, [Unsettled(tid(1), [N0, N1])], True, 2)
    asked = office.hear(N0, found)
    assert asked == [SendTo(n, Resolve(tid(1), [N0, N1])) for n in (N0, N1)]
    assert office.hear(N0, found) == [], "it is being settled already"
    assert office.hear(N0, Resolved(tid(1), Answer.OK)) == []
    assert len(office.hear(N1, Resolved(tid(1), Answer.OK))) == 2
    assert office.hear(N0, CommitAck(tid(1))) == []
    assert office.hear(N1, CommitAck(tid(1))) == [SendTo(n, Forget([tid(1)])) for n in (N0, N1)]
    assert not office.manager.recoveries
    assert office.manager.recovered == 1


def test_a_recovery_asks_again_until_the_dead_participant_is_back() -> None:
    office = Office()
    office.register(registration(node=0))
    office.register(registration(node=1, identity="other"))
    office.hear(N0, ProbeReply(N0, [Unsettled(tid(1), [N0, N1])], True, 2))
    office.hear(N0, Resolved(tid(1), Answer.OK))
    for round_number in range(1, 4):
        sends = office.carry_out(office.manager.on_tick(round_number * 1.0))
        asked = [send for send in sends if isinstance(send.request, Resolve)]
        assert asked == [SendTo(N1, Resolve(tid(1), [N0, N1]))]


def test_epochs_advance_are_stored_and_are_spread_by_probes() -> None:
    office = Office()
    office.register(registration())
    sends = office.carry_out(office.manager.on_tick(3600.0))
    assert office.stored.epoch == 1
    probes = [send.request for send in sends if isinstance(send.request, Probe)]
    assert [probe.epoch for probe in probes] == [1]
    office.restart()
    assert office.manager.directory.epoch == 1


def test_probe_and_recovery_fit_into_the_time_promised() -> None:
    settings = ManagerSettings(in_doubt_timeout=2.0)
    assert settings.in_doubt_age + settings.probe_interval < settings.in_doubt_timeout


def test_a_reply_of_a_former_life_is_ignored() -> None:
    office = Office()
    office.register(registration(starts=2))
    found = ProbeReply(N0, [Unsettled(tid(1), [N0, N1])], True, 2)
    stale = Replies(PROTOCOL_VERSION, N0, 1, 0, [found])
    assert office.manager.on_replies(N0, stale, 0.0) == []


@given(st.lists(st.sampled_from(list(Answer)), min_size=2, max_size=5), st.randoms())
def test_recovery_commits_only_if_all_voted_ok_or_one_knows(
    answers: list[Answer], order: object
) -> None:
    """Section 4.4, for any answers in any order that may be heard together."""
    if Answer.COMMITTED in answers and Answer.ABORT in answers:
        return  # nobody commits what another has promised to abort
    nodes = [MemoryNodeId(i) for i in range(len(answers))]
    recovery = RecoveryCoordinator(tid(1), nodes)
    shuffled = list(zip(nodes, answers, strict=True))
    order.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    for node, answer in shuffled:
        recovery.on_answer(node, answer)
    if Answer.COMMITTED in answers or set(answers) == {Answer.OK}:
        assert recovery.outcome is Outcome.COMMITTED
    elif set(answers) == {Answer.FORGOTTEN}:
        assert recovery.outcome is Outcome.FORGOTTEN
    else:
        assert recovery.outcome is Outcome.ABORTED


def test_a_vote_in_hand_does_not_say_that_its_participant_is_still_in_doubt() -> None:
    """The others may have forgotten that it committed."""
    recovery = RecoveryCoordinator(tid(1), [N0, N1], voted_ok=[N0])
    assert recovery.on_answer(N1, Answer.FORGOTTEN) == []
    assert recovery.outcome is Outcome.FORGOTTEN
    assert recovery.finished
