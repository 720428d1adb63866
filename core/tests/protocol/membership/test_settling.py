"""A tid that names a memory node that never existed is aborted at an operator's word only.

Members are played by hand: what they answer is what the test says.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.effects import ReplyTo, SendTo, SendToMember
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.manager import ManagementRequest, Manager, ManagerSettings
from sinfonia.protocol.membership.messages import (
    Changed,
    Directory,
    GetUnsettled,
    MemoryNodeEntry,
    NotLeading,
    Settle,
    UnsettledTid,
    UnsettledTids,
)
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Answer,
    Commit,
    CommitAck,
    Probe,
    ProbeReply,
    Replies,
    Reply,
    Resolve,
    Resolved,
    Unsettled,
)
from sinfonia.protocol.recovery import Outcome, Recoveries, RecoveryCoordinator
from sinfonia.simulation.participant_harness import tid

N0, N1, LIE, LIE2 = (MemoryNodeId(number) for number in (0, 1, 7, 8))
VERSION = 10


class Desk:
    """A manager with two memory nodes that exist, and an operator."""

    def __init__(self, *, leading: bool = True) -> None:
        nodes = [
            MemoryNodeEntry(
                node=node,
                endpoint=f"tcp://h{node}:1",
                capacity=1024,
                mode="LOG",
                identity=f"id{node}",
                incarnation=1,
                starts=1,
                config_epoch=1,
            )
            for node in (N0, N1)
        ]
        self.now = 100.0
        self.manager = Manager(
            client=2,
            settings=ManagerSettings(),
            directory=Directory(VERSION, 0, "test", nodes),
            now=self.now,
            leading=leading,
        )

    def hear(self, node: MemoryNodeId, *replies: Reply) -> list[SendTo]:
        batch = Replies(PROTOCOL_VERSION, node, 1, 0, list(replies))
        effects = self.manager.on_replies(node, batch, self.now)
        return [effect for effect in effects if isinstance(effect, SendTo)]

    def report(
        self,
        node: MemoryNodeId,
        *unsettled: Unsettled,
        version: int = VERSION,
        known_epoch: int = 1,
    ) -> list[SendTo]:
        """``node`` answers a probe."""
        return self.hear(
            node,
            ProbeReply(
                node,
                list(unsettled),
                True,
                version,
                f"id{node}",
                1,
                sent_at=self.now,
                known_epoch=known_epoch,
            ),
        )

    def report_all(self, *unsettled: Unsettled) -> list[SendTo]:
        return [send for node in (N0, N1) for send in self.report(node, *unsettled)]

    def ask(self, request: ManagementRequest) -> tuple[Reply, list[SendTo]]:
        effects = self.manager.on_request(b"route", request, self.now)
        [answer] = [effect.reply for effect in effects if isinstance(effect, ReplyTo)]
        return answer, [effect for effect in effects if isinstance(effect, SendTo)]

    def listed(self, tid: Tid | None = None) -> list[UnsettledTid]:
        answer, _ = self.ask(GetUnsettled(tid))
        assert isinstance(answer, UnsettledTids)
        return answer.tids


LIED = Unsettled(tid(1), [N0, LIE, N1])


def lied_to() -> Desk:
    """Both memory nodes have voted OK on a minitransaction that also names memory node 7."""
    desk = Desk()
    asked = desk.report_all(LIED)
    assert [(send.node, type(send.request)) for send in asked] == [
        (node, Resolve) for node in LIED.participants
    ]
    for node in (N0, N1):
        assert desk.hear(node, Resolved(LIED.tid, Answer.OK)) == []
    return desk


# --- the command's questions ---------------------------------------------------------------------


def test_the_listing_says_since_when_and_for_whom_a_tid_waits() -> None:
    desk = Desk()
    desk.report_all(LIED, Unsettled(tid(2), [N0, N1]))
    desk.hear(N0, Resolved(LIED.tid, Answer.OK))
    desk.now += 5.0
    first, second = desk.listed()
    assert first == UnsettledTid(LIED.tid, LIED.participants, [LIE], [N1], 5.0)
    assert (second.tid, second.absent, second.silent) == (tid(2), [], [N0, N1])
    assert desk.listed(tid(2)) == [second]
    assert desk.listed(tid(3)) == []


def test_without_the_operator_it_stays_in_doubt_for_good() -> None:
    desk = lied_to()
    for _ in range(50):
        desk.now += 1.0
        desk.manager.on_tick(desk.now)
        desk.report_all(LIED)
    [left] = desk.listed()
    assert (left.absent, left.silent) == ([LIE], [])


def test_at_an_operators_word_all_that_exist_are_told_to_abort_and_it_is_over() -> None:
    desk = lied_to()
    answer, told = desk.ask(Settle(LIED.tid))
    assert answer == Changed()
    assert sorted((send.node, send.request) for send in told) == [
        (N0, Commit(LIED.tid, False)),
        (N1, Commit(LIED.tid, False)),
    ]
    assert desk.hear(N0, CommitAck(LIED.tid)) == []
    assert desk.listed(), "memory node 1 may not know it yet"
    desk.hear(N1, CommitAck(LIED.tid))
    assert desk.listed() == []
    assert desk.ask(Settle(LIED.tid)) == (Changed(), []), "it may be said again"


def test_a_participant_that_exists_is_asked_before_anything_is_aborted() -> None:
    desk = Desk()
    desk.report_all(LIED)
    assert desk.ask(Settle(LIED.tid)) == (Changed(), [])
    assert desk.hear(N0, Resolved(LIED.tid, Answer.OK)) == []
    told = desk.hear(N1, Resolved(LIED.tid, Answer.OK))
    assert {send.request for send in told} == {Commit(LIED.tid, False)}


def test_what_a_participant_knows_to_have_committed_is_not_aborted() -> None:
    """Then the one that is absent did exist: the directory is wrong, and the memory is right."""
    desk = Desk()
    desk.report_all(LIED)
    desk.ask(Settle(LIED.tid, force=True))
    desk.hear(N0, Resolved(LIED.tid, Answer.OK))
    told = desk.hear(N1, Resolved(LIED.tid, Answer.COMMITTED))
    assert {send.request for send in told} == {Commit(LIED.tid, True)}


# --- when it is refused --------------------------------------------------------------------------


def refusal(desk: Desk, request: Settle) -> str:
    answer, sends = desk.ask(request)
    assert isinstance(answer, Changed)
    assert sends == []
    return answer.refusal


@pytest.mark.parametrize("force", [False, True])
def test_a_tid_whose_participants_all_exist_is_left_to_recovery(force: bool) -> None:
    desk = Desk()
    desk.report_all(Unsettled(tid(1), [N0, N1]))
    desk.hear(N0, Resolved(tid(1), Answer.OK))
    said = refusal(desk, Settle(tid(1), force))
    assert "all participants" in said
    assert "have not answered yet: 1" in said


def test_an_older_directory_may_lack_a_participant_that_voted() -> None:
    for known in ({"version": VERSION + 1}, {"known_epoch": 2}):
        desk = lied_to()
        desk.report(N1, LIED, **known)
        said = refusal(desk, Settle(LIED.tid))
        assert "memory nodes 1 have seen a later directory" in said
        assert "--force" in said
        answer, told = desk.ask(Settle(LIED.tid, force=True))
        assert (answer, len(told)) == (Changed(), 2)


def test_a_memory_node_that_is_away_may_have_seen_a_later_directory() -> None:
    desk = lied_to()
    desk.now += 10.0
    desk.report(N0, LIED)
    assert "memory nodes 1 do not answer" in refusal(desk, Settle(LIED.tid))
    desk.report(N1, LIED)
    assert refusal_free(desk)


def refusal_free(desk: Desk) -> bool:
    answer, told = desk.ask(Settle(LIED.tid))
    return answer == Changed() and len(told) == 2


def test_only_the_manager_that_leads_settles() -> None:
    desk = Desk(leading=False)
    assert isinstance(desk.ask(Settle(LIED.tid))[0], NotLeading)
    assert isinstance(desk.ask(GetUnsettled())[0], NotLeading)


# --- the recovery coordinator --------------------------------------------------------------------


def test_a_memory_node_that_answers_after_all_is_not_absent() -> None:
    """One of that id was added meanwhile: it promises abort, as any that has not voted."""
    recovery = RecoveryCoordinator(LIED.tid, LIED.participants)
    recovery.on_absent([LIE])
    assert recovery.outcome is None
    told = recovery.on_answer(LIE, Answer.ABORT)
    assert recovery.outcome is Outcome.ABORTED
    assert {send.node for send in told} == {N0, LIE, N1}


def test_absent_participants_do_not_keep_an_aborted_tid_open() -> None:
    recoveries = Recoveries()
    recoveries.begin(LIED, 0.0)
    recoveries.on_reply(N0, Resolved(LIED.tid, Answer.ABORT))
    for node in (N0, N1):
        recoveries.on_reply(node, CommitAck(LIED.tid))
    assert len(recoveries) == 1, "memory node 7 acknowledges nothing"
    assert recoveries.on_absent(LIED.tid, [LIE]) == []
    assert len(recoveries) == 0


@given(
    answers=st.lists(
        st.tuples(st.sampled_from([N0, N1, LIE, LIE2]), st.sampled_from(list(Answer))), max_size=8
    ),
    at=st.integers(0, 8),
)
def test_a_word_about_absent_participants_never_commits_and_never_undoes_a_commit(
    answers: list[tuple[MemoryNodeId, Answer]], at: int
) -> None:
    """Whatever is answered in whatever order; at some time the operator speaks."""
    participants = [N0, N1, LIE, LIE2]
    with_word = RecoveryCoordinator(tid(1), participants)
    without = RecoveryCoordinator(tid(1), participants)
    heard: dict[MemoryNodeId, Answer] = {}
    for number, (node, answer) in enumerate(answers):
        if number == at:
            before = with_word.outcome
            with_word.on_absent([LIE, LIE2])
            assert before is None or with_word.outcome is before
            assert with_word.outcome is not Outcome.COMMITTED or before is Outcome.COMMITTED
        if with_word.outcome is None:
            heard.setdefault(node, answer)
        with_word.on_answer(node, answer)
        without.on_answer(node, answer)
        if with_word.outcome is Outcome.ABORTED and without.outcome is not Outcome.ABORTED:
            # By the operator's word alone: all that exist were asked, and none knew of a commit.
            assert {N0, N1} <= heard.keys()
            assert Answer.COMMITTED not in heard.values()


def test_a_tid_is_read_as_it_is_printed() -> None:
    for each in (Tid(0, 0, 0), Tid(12, 2**64 - 1, 2**62), tid(7)):
        assert Tid.parse(str(each)) == each
    for wrong in ("", "1.2.3", "0.00000000000000FG.1", f"0.{0:016x}.{2**62 + 1}", "-1.0.0"):
        with pytest.raises(ValueError, match="is not a tid"):
            Tid.parse(wrong)


def test_probes_go_to_memory_nodes_that_exist_only() -> None:
    desk = lied_to()
    desk.now += 1.0
    effects = desk.manager.on_tick(desk.now)
    probed = [effect.node for effect in effects if isinstance(effect, SendToMember)]
    assert set(probed) == {N0, N1}
    assert all(
        isinstance(each.request, Probe) for each in effects if isinstance(each, SendToMember)
    )


def test_the_directory_that_names_it_makes_a_participant_one_that_exists() -> None:
    desk = lied_to()
    entry = replace(desk.manager.directory.nodes[0], node=LIE, endpoint="tcp://h7:1")
    nodes = [*desk.manager.directory.nodes, entry]
    later = replace(desk.manager.directory, version=VERSION + 1, nodes=nodes)
    desk.manager.on_directory(later, desk.now)
    [listed] = desk.listed()
    assert (listed.absent, listed.silent) == ([], [LIE])
    assert "all participants" in refusal(desk, Settle(LIED.tid, force=True))
