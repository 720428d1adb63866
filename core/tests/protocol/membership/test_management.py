"""The manager: who may come back as a memory node, and that nothing stays undecided."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.effects import ReplyTo, SendTo, SendToMember, StoreDirectory
from sinfonia.protocol.membership.manager import (
    ManagementRequest,
    Manager,
    ManagerEffect,
    ManagerSettings,
)
from sinfonia.protocol.membership.messages import (
    Directory,
    NotLeading,
    Recreate,
    Register,
    Registered,
)
from sinfonia.protocol.membership.whole_system import REBOOT_WINDOW
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Answer,
    Commit,
    CommitAck,
    Forget,
    Probe,
    ProbeReply,
    Replies,
    Reply,
    Resolve,
    Resolved,
    Unsettled,
)
from sinfonia.protocol.recovery import Outcome, RecoveryCoordinator
from sinfonia.simulation.participant_harness import tid

N0, N1, N2, N3 = (MemoryNodeId(number) for number in range(4))


def registration(
    *, node: int = 0, mode: str = "LOG", identity: str = "mine", starts: int = 1
) -> Register:
    return Register(
        node=MemoryNodeId(node),
        endpoint=f"tcp://h{node}:1",
        capacity=1024,
        mode=mode,
        identity=identity,
        starts=starts,
        empty=mode == "RAM",
    )


class Office:
    """A manager and its store."""

    def __init__(self) -> None:
        self.stored = Directory(0, 0, "test", [])
        self.now = 0.0
        self.restart()

    def carry_out(self, effects: list[ManagerEffect]) -> list[SendTo]:
        """What the manager asks of primaries, probes left out."""
        for effect in effects:
            if isinstance(effect, StoreDirectory):
                assert effect.directory.version == self.stored.version + 1
                self.stored = effect.directory
        return [effect for effect in effects if isinstance(effect, SendTo)]

    def ask(self, request: ManagementRequest) -> Reply:
        effects = self.manager.on_request(b"route", request, self.now)
        self.carry_out(effects)
        [answer] = [effect.reply for effect in effects if isinstance(effect, ReplyTo)]
        return answer

    def register(self, request: Register) -> Registered:
        answer = self.ask(request)
        assert isinstance(answer, Registered)
        return answer

    def hear(self, node: MemoryNodeId, *replies: Reply) -> list[SendTo]:
        entry = self.manager.entry(node)
        assert entry is not None
        batch = Replies(PROTOCOL_VERSION, node, entry.incarnation, 0, list(replies))
        return self.carry_out(self.manager.on_replies(node, batch, self.now))

    def probes(self, now: float) -> list[Probe]:
        self.now = now
        effects = self.manager.on_tick(now)
        self.carry_out(effects)
        sent = [effect.request for effect in effects if isinstance(effect, SendToMember)]
        return [request for request in sent if isinstance(request, Probe)]

    def tick(self, now: float) -> list[SendTo]:
        self.now = now
        return self.carry_out(self.manager.on_tick(now))

    def restart(self) -> None:
        """The manager dies; the next one has only what was stored."""
        self.manager = Manager(
            client=2, settings=ManagerSettings(), directory=self.stored, now=self.now
        )


def found(node: MemoryNodeId, *counters: int, nodes: list[MemoryNodeId]) -> ProbeReply:
    """The report of ``node``: these are in doubt, with these participants."""
    unsettled = [Unsettled(tid(counter), nodes) for counter in counters]
    return ProbeReply(node, unsettled, True, 2)


def test_a_memory_node_is_in_the_store_before_it_is_welcomed() -> None:
    effects = Office().manager.on_request(b"route", registration(), 0.0)
    assert [type(effect) for effect in effects] == [StoreDirectory, ReplyTo, SendToMember]


def test_a_repeated_registration_changes_nothing() -> None:
    office = Office()
    first = office.register(registration())
    assert office.register(registration()) == first
    assert office.stored.version == 1


def test_a_restart_is_a_later_incarnation() -> None:
    office = Office()
    office.register(registration())
    office.restart()
    assert not office.register(registration(starts=2)).refusal
    assert office.stored.nodes[0].incarnation == 2


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
    office.register(registration(mode="RAM", starts=7))
    office.ask(Recreate(N0))
    office.restart()
    new = office.register(registration(mode="RAM", identity=identity, starts=1))
    assert not new.refusal
    assert office.stored.nodes[0].incarnation == 2


def test_what_is_in_doubt_is_settled_and_then_forgotten_by_all() -> None:
    office = Office()
    office.register(registration(node=0))
    office.register(registration(node=1, identity="other"))
    report = found(N0, 1, nodes=[N0, N1])
    assert office.hear(N0, report) == [SendTo(n, Resolve(tid(1), [N0, N1])) for n in (N0, N1)]
    assert office.hear(N0, report) == [], "it is being settled already"
    assert office.hear(N0, Resolved(tid(1), Answer.OK)) == []
    assert len(office.hear(N1, Resolved(tid(1), Answer.OK))) == 2
    assert office.hear(N0, CommitAck(tid(1))) == []
    assert office.hear(N1, CommitAck(tid(1))) == [SendTo(n, Forget([tid(1)])) for n in (N0, N1)]
    assert not office.manager.undecided.recoveries
    assert office.manager.undecided.recoveries.finished == 1


def test_a_recovery_asks_again_until_the_dead_participant_is_back() -> None:
    office = Office()
    office.register(registration(node=0))
    office.register(registration(node=1, identity="other"))
    office.hear(N0, found(N0, 1, nodes=[N0, N1]))
    office.hear(N0, Resolved(tid(1), Answer.OK))
    for round_number in range(1, 4):
        assert office.tick(round_number * 1.0) == [SendTo(N1, Resolve(tid(1), [N0, N1]))]


def test_epochs_advance_are_stored_and_are_spread_by_probes() -> None:
    office = Office()
    office.register(registration())
    assert [probe.epoch for probe in office.probes(3600.0)][-1] == 0, "not stored yet"
    assert office.stored.epoch == 1
    assert [probe.epoch for probe in office.probes(3600.1)] == [1]
    office.restart()
    assert office.manager.directory.epoch == 1


def test_a_change_is_pushed_to_all_members_at_once_and_told_only_once() -> None:
    office = Office()
    office.register(registration(node=0))
    office.register(registration(node=1, identity="other"))
    assert all(probe.directory is not None for probe in office.probes(0.1))
    for node in (N0, N1):
        office.hear(node, ProbeReply(node, [], True, office.stored.version))
    assert [probe.directory for probe in office.probes(1.0)] == [None, None]


def test_many_changes_share_a_push() -> None:
    office = Office()
    office.probes(0.0)
    for number in range(50):
        office.register(registration(node=number, identity=str(number)))
    assert len(office.probes(0.03)) == 50
    office.register(registration(node=50, identity="50"))
    assert office.probes(0.04) == [], "the next push waits a moment"
    assert len(office.probes(0.06)) == 51


def test_a_manager_that_stands_by_refers_to_the_leader_and_leaves_everything_to_it() -> None:
    office = Office()
    office.register(registration())
    office.manager.on_leadership(leading=False, leader="tcp://other:1", now=0.0)
    assert office.ask(registration(starts=2)) == NotLeading("tcp://other:1")
    assert office.probes(10.0) == []


def test_when_no_manager_leads_what_is_in_doubt_is_settled_all_the_same() -> None:
    office = Office()
    office.register(registration(node=0))
    office.register(registration(node=1, identity="other"))
    office.manager.on_leadership(leading=False, leader="", now=0.0)
    assert len(office.probes(10_000.0)) >= 2
    assert office.stored.epoch == 0, "but nothing is changed"
    assert len(office.hear(N0, found(N0, 1, nodes=[N0, N1]))) == 2


def test_tids_that_a_silent_memory_node_pins_are_counted() -> None:
    office = Office()
    office.register(registration(node=0))
    office.register(registration(node=1, identity="other"))
    for step in range(1, 12):
        office.tick(step * 0.25)
        office.hear(N0, found(N0, 1, 2, 3, nodes=[N0, N1]))
    figures = office.manager.figures(office.now)
    assert figures["pinned_by_node1"] == 3
    assert figures["pinned_by_node0"] == 0


# --- the whole system crashes --------------------------------------------------------------------


def restarted_cluster(*, back: int) -> Office:
    """Four memory nodes, of which ``back`` have come back after a power cut."""
    office = Office()
    for number in range(4):
        office.register(registration(node=number, identity=str(number)))
    office.now = 100.0
    office.restart()
    for number in range(back):
        office.register(registration(node=number, identity=str(number), starts=2))
    return office


def questions(sends: list[SendTo]) -> list[SendTo]:
    return [send for send in sends if isinstance(send.request, Resolve)]


def test_after_a_power_cut_votes_are_laid_side_by_side_and_no_participant_is_asked() -> None:
    office = restarted_cluster(back=4)
    pairs = [(N0, N1), (N1, N2), (N2, N3), (N3, N0)]
    sends: list[SendTo] = []
    for node in (N0, N1, N2, N3):
        mine = [
            Unsettled(tid(pair * 100 + each), list(nodes))
            for pair, nodes in enumerate(pairs)
            if node in nodes
            for each in range(100)
        ]
        sends += office.hear(node, ProbeReply(node, mine, False, 0))
    assert questions(sends) == []
    assert len(sends) == 2 * 400, "a COMMIT per participant, and nothing else"
    assert all(isinstance(send.request, Commit) and send.request.action for send in sends)
    figures = office.manager.figures(office.now)
    assert figures["settled_in_bulk"] == 400
    assert figures["whole_system_recoveries"] == 1
    assert figures["reboots"] == 4


def test_everything_that_is_in_doubt_is_asked_for_once_however_young() -> None:
    office = restarted_cluster(back=2)
    ages = {probe.in_doubt_age for probe in office.probes(100.0)}
    assert ages == {0.0, office.manager.settings.in_doubt_age}, "of the restarted, and the others"
    for node in (N0, N1):
        office.hear(node, found(node, nodes=[N0, N1]))
    assert {probe.in_doubt_age for probe in office.probes(101.0)} == {
        office.manager.settings.in_doubt_age
    }


def test_a_vote_that_is_missing_is_asked_for() -> None:
    office = restarted_cluster(back=2)
    assert office.hear(N0, found(N0, 1, nodes=[N0, N1])) == [], "memory node 1 may report it, too"
    sends = office.hear(N1, found(N1, nodes=[N0, N1]))
    assert sends == [SendTo(n, Resolve(tid(1), [N0, N1])) for n in (N0, N1)]
    assert office.manager.undecided.whole_system.settled == 0


def test_a_participant_that_never_went_down_is_asked_at_once() -> None:
    office = restarted_cluster(back=1)
    office.hear(N1, ProbeReply(N1, [], True, 2, identity="1", starts=1))
    assert len(questions(office.hear(N0, found(N0, 1, nodes=[N0, N1])))) == 2
    assert office.manager.undecided.whole_system.recoveries == 0, (
        "one memory node is not the system"
    )


def test_a_participant_that_does_not_come_back_is_not_waited_for_long() -> None:
    office = restarted_cluster(back=2)
    assert office.hear(N0, found(N0, 1, nodes=[N0, N3])) == []
    assert questions(office.tick(100.0 + REBOOT_WINDOW / 2)) == []
    assert len(questions(office.tick(100.0 + REBOOT_WINDOW))) == 2


def test_a_late_report_settles_what_waited_for_it() -> None:
    office = restarted_cluster(back=3)
    office.hear(N0, found(N0, 1, nodes=[N0, N3]))
    office.tick(101.0)
    office.register(registration(node=3, identity="3", starts=2))
    sends = office.hear(N3, found(N3, 1, nodes=[N0, N3]))
    assert sends == [SendTo(n, Commit(tid(1), True)) for n in (N0, N3)]


def test_probe_and_recovery_fit_into_the_time_promised() -> None:
    settings = ManagerSettings(in_doubt_timeout=2.0)
    assert settings.in_doubt_age + settings.probe_interval < settings.in_doubt_timeout


def test_a_reply_of_a_former_life_is_ignored() -> None:
    office = Office()
    office.register(registration(starts=2))
    stale = Replies(PROTOCOL_VERSION, N0, 7, 0, [found(N0, 1, nodes=[N0, N1])])
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
