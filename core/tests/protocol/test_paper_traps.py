"""What Figure 4 leaves unsaid, one test each: where a faithful reading still loses data."""

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.membership.messages import Recreate
from sinfonia.protocol.messages import (
    Answer,
    Commit,
    CommitAck,
    Forget,
    NotServing,
    Probe,
    Resolve,
    Resolved,
    Vote,
    Voted,
    WrongIncarnation,
)
from sinfonia.protocol.records import Decided, ForcedAbort, OnePhase, Prepared
from sinfonia.simulation.participant_harness import (
    ParticipantHarness,
    asks_nothing,
    one_phase,
    prepare,
    tid,
)


def test_trap_1_a_participant_with_compare_items_only_logs_if_the_minitransaction_writes() -> None:
    """A crash would forget its vote, and recovery would abort what another node committed."""
    harness = ParticipantHarness()
    assert harness.vote(prepare(1, compare=[(0, b"\0")])).vote is Vote.OK
    assert [type(record) for record in harness.log] == [Prepared]
    reborn = harness.restarted()
    assert reborn.resolve(tid(1), [0, 1]) is Answer.OK


def test_trap_1_a_minitransaction_that_writes_nowhere_is_not_logged() -> None:
    harness = ParticipantHarness()
    assert harness.vote(one_phase(1, read=[(0, 8)])).vote is Vote.OK
    assert harness.vote(prepare(2, read=[(0, 8)], read_only=True)).vote is Vote.OK
    assert harness.log == []


def test_trap_2_in_doubt_keeps_the_participants_and_the_vote() -> None:
    harness = ParticipantHarness()
    harness.vote(prepare(1, nodes=[0, 3, 5], write=[(0, b"x")]))
    entry = harness.participant.state.in_doubt[tid(1)]
    assert entry.unsettled.participants == [0, 3, 5]
    assert harness.resolve(tid(1), [0, 3, 5]) is Answer.OK


def test_trap_3_recovery_before_exec_prepare_makes_it_abort() -> None:
    """Coordinator and recovery coordinator may reach a participant in any order."""
    harness = ParticipantHarness()
    assert harness.resolve(tid(1), [0, 1]) is Answer.ABORT
    assert harness.vote(prepare(1, write=[(0, b"x")])).vote is Vote.BAD_FORCED
    harness.check()


def test_trap_3_exec_prepare_before_recovery_keeps_its_vote() -> None:
    harness = ParticipantHarness()
    harness.vote(prepare(1, write=[(0, b"x")]))
    assert harness.resolve(tid(1), [0, 1]) is Answer.OK
    assert harness.resolve(tid(1), [0, 1]) is Answer.OK


def test_trap_4_a_duplicate_exec_prepare_after_commit_is_not_executed_again() -> None:
    harness = ParticipantHarness()
    request = prepare(1, read=[(8, 1)], write=[(0, b"old")])
    first = harness.vote(request)
    harness.commit(tid(1))
    assert harness.vote(one_phase(2, write=[(0, b"new"), (8, b"!")])).vote is Vote.OK
    assert harness.vote(request) == first
    assert harness.read(0, 3) == b"new"
    harness.check()


def test_trap_4_a_duplicate_exec_commit_gets_the_same_answer_reads_included() -> None:
    harness = ParticipantHarness()
    swap = one_phase(1, read=[(0, 3)], write=[(0, b"new")])
    assert harness.vote(swap).reads == [b"\0\0\0"]
    assert harness.vote(swap).reads == [b"\0\0\0"]
    assert harness.participant.votes.duplicates == 1


def test_trap_4_a_duplicate_after_a_restart_gets_the_same_answer_reads_included() -> None:
    harness = ParticipantHarness()
    swap = one_phase(1, read=[(0, 3)], write=[(0, b"new")])
    harness.vote(swap)
    reborn = harness.restarted()
    assert reborn.vote(swap).reads == [b"\0\0\0"]
    assert reborn.read(0, 3) == b"new"


def test_trap_4_a_duplicate_of_a_negative_vote_is_not_executed_later() -> None:
    """The client was told that the compare failed; it must not succeed behind its back."""
    harness = ParticipantHarness()
    request = one_phase(1, compare=[(0, b"a")], write=[(8, b"x")])
    assert harness.vote(request).vote is Vote.BAD_CMP
    harness.vote(one_phase(2, write=[(0, b"a")]))
    assert harness.vote(request).vote is Vote.BAD_CMP
    assert harness.read(8, 1) == b"\0"


def test_trap_4_a_restarted_node_executes_nothing_meant_for_its_former_life() -> None:
    """It forgot its negative votes, so that it cannot tell a duplicate from a first copy."""
    reborn = ParticipantHarness().restarted()
    request = one_phase(1, write=[(0, b"x")])
    assert reborn.replies(request, incarnation=1) == [WrongIncarnation()]
    assert reborn.read(0, 1) == b"\0"


def test_trap_4_below_the_floor_nothing_is_executed_and_nothing_is_remembered() -> None:
    harness = ParticipantHarness()
    harness.vote(one_phase(1, write=[(0, b"a")]))
    harness.vote(one_phase(5, write=[(0, b"b")]), floor=5)
    session = harness.participant.state.sessions.get(7)
    assert session is not None
    assert list(session.outcomes) == [5]
    assert harness.vote(one_phase(1, write=[(0, b"a")])).vote is Vote.BAD_FLOOR
    assert harness.read(0, 1) == b"b"


def test_trap_5_commit_before_exec_prepare_leaves_no_lock_for_ever() -> None:
    """An abort overtakes its EXEC&PREPARE: recovery finds what came too late."""
    harness = ParticipantHarness()
    assert harness.replies(Commit(tid(1), False)) == [CommitAck(tid(1))]
    assert harness.vote(prepare(1, write=[(0, b"x")])).vote is Vote.OK
    other = ParticipantHarness(1)
    assert other.resolve(tid(1), [0, 1]) is Answer.ABORT
    harness.commit(tid(1), action=False)
    harness.check()


def test_trap_6_a_reader_after_exec_and_commit_meets_the_lock_until_commit_arrives() -> None:
    harness = ParticipantHarness()
    harness.vote(prepare(1, write=[(0, b"x")]))
    assert harness.vote(one_phase(2, read=[(0, 1)])).vote is Vote.BAD_LOCK
    harness.commit(tid(1))
    assert harness.vote(one_phase(3, read=[(0, 1)])).reads == [b"x"]


def test_trap_7_a_one_phase_record_decides_itself_at_replay() -> None:
    harness = ParticipantHarness()
    harness.vote(one_phase(1, write=[(0, b"x")]))
    assert [type(record) for record in harness.log] == [OnePhase]
    reborn = harness.restarted()
    assert reborn.read(0, 1) == b"x"
    assert not reborn.participant.state.in_doubt


def test_trap_8_overlapping_items_take_the_strongest_lock_once_and_write_in_order() -> None:
    harness = ParticipantHarness()
    request = prepare(
        1, compare=[(0, b"\0\0\0\0")], read=[(2, 4)], write=[(1, b"aaa"), (2, b"bb"), (3, b"c")]
    )
    voted = harness.vote(request)
    assert voted.vote is Vote.OK
    assert voted.reads == [b"\0\0\0\0"], "reads are of before the writes"
    harness.commit(tid(1))
    assert harness.read(0, 6) == b"\0abc\0\0"
    harness.check()


def test_trap_9_bad_lock_may_mask_bad_forced_but_the_promise_stands() -> None:
    harness = ParticipantHarness()
    harness.vote(prepare(1, write=[(0, b"x")]))
    assert harness.resolve(tid(2), [0, 1]) is Answer.ABORT
    assert harness.vote(prepare(2, write=[(0, b"y")])).vote is Vote.BAD_FORCED
    harness.commit(tid(1))
    assert harness.vote(prepare(2, write=[(0, b"y")])).vote is Vote.BAD_FORCED


def test_trap_10_locks_of_a_dead_client_stay_until_recovery_settles_them() -> None:
    harnesses = {0: ParticipantHarness(0), 1: ParticipantHarness(1)}
    for harness in harnesses.values():
        harness.vote(prepare(1, write=[(0, b"x")]))
    answers = [harness.resolve(tid(1), [0, 1]) for harness in harnesses.values()]
    assert answers == [Answer.OK, Answer.OK], "so it has committed, whoever knows"
    for harness in harnesses.values():
        harness.commit(tid(1))
        assert harness.read(0, 1) == b"x"
        harness.check()


def test_the_log_comes_before_the_vote() -> None:
    step = ParticipantHarness().step(prepare(1, write=[(0, b"x")]))
    assert [type(record) for record in step.records] == [Prepared]
    assert step.must_sync
    assert len(step.replies) == 1


def test_the_outcome_is_logged_before_it_is_acknowledged_but_no_caller_waits_for_that() -> None:
    harness = ParticipantHarness()
    harness.vote(prepare(1, write=[(0, b"x")]))
    step = harness.step(Commit(tid(1), True))
    assert step.records == [Decided(tid(1), True)]
    assert not step.must_sync
    assert step.once_stable == [CommitAck(tid(1))]
    assert not step.replies


def test_a_promise_to_abort_survives_a_restart() -> None:
    harness = ParticipantHarness()
    assert asks_nothing(harness.step(*[], client=99))
    step = harness.step(Resolve(tid(1), [MemoryNodeId(0), MemoryNodeId(1)]), client=99)
    assert step.replies == [Resolved(tid(1), Answer.ABORT)]
    assert step.must_sync
    assert harness.log == [ForcedAbort(tid(1))]
    assert harness.restarted().vote(prepare(1, write=[(0, b"x")])).vote is Vote.BAD_FORCED


def test_a_restart_holds_the_read_locks_of_what_is_in_doubt() -> None:
    """Else: T1 compared x here; T2 writes x; T3 reads x and old y; T1 then writes y elsewhere."""
    harness = ParticipantHarness()
    harness.vote(prepare(1, compare=[(0, b"\0")]))
    reborn = harness.restarted()
    assert reborn.vote(one_phase(2, write=[(0, b"x")])).vote is Vote.BAD_LOCK
    assert reborn.vote(one_phase(3, read=[(0, 1)])).vote is Vote.OK
    reborn.commit(tid(1))
    assert reborn.vote(one_phase(4, write=[(0, b"x")])).vote is Vote.OK


def test_an_outcome_that_was_not_synced_is_asked_for_again_after_a_restart() -> None:
    harness = ParticipantHarness()
    harness.vote(prepare(1, write=[(0, b"x")]))
    harness.commit(tid(1))
    assert isinstance(harness.log[-1], Decided)
    reborn = harness.restarted(stable=1)
    assert tid(1) in reborn.participant.state.in_doubt
    assert reborn.vote(one_phase(2, read=[(0, 1)])).vote is Vote.BAD_LOCK


def test_a_client_that_missed_the_vote_gets_it_though_all_participants_have_forgotten() -> None:
    """The manager settled it meanwhile; executing it afresh would execute it twice."""
    harness = ParticipantHarness()
    request = prepare(1, read=[(8, 1)], write=[(0, b"x")])
    first = harness.vote(request)
    harness.commit(tid(1))
    harness.step(Forget([tid(1)]), client=99)
    assert not harness.participant.state.decided
    assert harness.vote(request) == first
    assert harness.restarted().vote(request) == first


def test_what_a_client_has_finished_with_is_forgotten_for_good() -> None:
    harness = ParticipantHarness()
    harness.vote(prepare(1, write=[(0, b"x")]))
    harness.commit(tid(1))
    harness.step(Forget([tid(1)]), floor=2)
    session = harness.participant.state.sessions.get(7)
    assert session is not None
    assert not session.outcomes
    assert not harness.participant.state.decided


def test_read_locks_of_a_reader_that_died_let_go_by_themselves() -> None:
    harness = ParticipantHarness()
    voted = harness.vote(prepare(1, read=[(0, 1)], read_only=True))
    assert voted.good_for == 1.0
    assert harness.vote(one_phase(2, write=[(0, b"x")])).vote is Vote.BAD_LOCK
    harness.now = 1.0
    assert harness.vote(one_phase(3, write=[(0, b"x")])).vote is Vote.OK
    harness.check()


def test_a_node_that_does_not_serve_yet_executes_nothing_but_answers_recovery() -> None:
    harness = ParticipantHarness(serving=False)
    assert harness.replies(one_phase(1, write=[(0, b"x")])) == [NotServing()]
    assert harness.resolve(tid(1), [0, 1]) is Answer.ABORT


def test_two_epochs_behind_is_stale_and_one_is_not() -> None:
    harness = ParticipantHarness()
    harness.participant.state.epoch = 5
    assert harness.vote(one_phase(1, write=[(0, b"x")], epoch=3)).vote is Vote.BAD_EPOCH
    assert harness.vote(one_phase(2, write=[(0, b"x")], epoch=4)).vote is Vote.OK


def test_an_item_beyond_the_capacity_changes_nothing() -> None:
    harness = ParticipantHarness()
    vote = harness.vote(one_phase(1, write=[(0, b"x"), (1023, b"xy")]))
    assert vote == Voted(1, Vote.BAD_RANGE)
    assert harness.read(0, 1) == b"\0"
    assert harness.vote(prepare(2, write=[(0, b"x")], read=[(1020, 5)])).vote is Vote.BAD_RANGE
    harness.check()


def test_a_session_lost_in_a_restart_does_not_let_its_minitransaction_run_twice() -> None:
    """Found by simulation (seeds 194 and 205): a checkpoint keeps what is in doubt, but keeps no
    session that has nothing else to remember."""
    harness = ParticipantHarness()
    request = prepare(1, write=[(0, b"x")])
    first = harness.vote(request)
    reborn = ParticipantHarness(incarnation=2)
    reborn.participant.state.restore(harness.participant.state.checkpoint_state())
    reborn.commit(tid(1))
    reborn.step(Forget([tid(1)]), client=99)
    assert reborn.vote(request) == first
    reborn.check()


def test_a_promise_to_abort_lasts_until_its_epoch_is_stale() -> None:
    """Found by simulation (seed 100527): it went with the session of a client last heard before."""
    harness = ParticipantHarness()
    harness.vote(one_phase(1, write=[(8, b"x")], epoch=0))
    harness.participant.state.epoch = 1
    late = prepare(2, write=[(0, b"x")], epoch=1)
    assert harness.resolve(late.tid, [0, 1]) is Answer.ABORT
    harness.step(Probe(1, 9.0, 9.0), Probe(2, 9.0, 9.0), client=99)
    assert harness.vote(late).vote is Vote.BAD_FORCED
    harness.step(Probe(3, 9.0, 9.0), client=99)
    assert harness.vote(late).vote is Vote.BAD_EPOCH


def test_not_knowing_a_stale_tid_is_no_promise_to_abort_it() -> None:
    """Found by simulation (seed 24, lost replies): the promise made a client that sent the tid
    again believe that it had not happened, though it had, and was forgotten."""
    harness = ParticipantHarness()
    request = prepare(1, write=[(0, b"x")])
    harness.vote(request)
    harness.commit(tid(1))
    harness.step(Forget([tid(1)]), Probe(1, 9.0, 9.0), Probe(2, 9.0, 9.0), client=99)
    assert harness.resolve(tid(1), [0, 1]) is Answer.FORGOTTEN
    assert harness.vote(request).vote is Vote.BAD_EPOCH


def test_a_request_that_breaks_the_protocol_does_not_cost_its_neighbours_their_log_records() -> (
    None
):
    """An exception in the middle of a batch would leave writes in memory that no log knows."""
    harness = ParticipantHarness()
    stranger = prepare(2, write=[(8, b"y")], client=8)
    elsewhere = prepare(3, nodes=[4, 5], write=[(8, b"y")])
    greedy = one_phase(4, read=[(0, 1024)] * 5000)
    votes = harness.replies(
        one_phase(1, write=[(0, b"x")]), stranger, elsewhere, greedy, Recreate(MemoryNodeId(0))
    )
    assert [reply.vote for reply in votes if isinstance(reply, Voted)] == [
        Vote.OK,
        Vote.BAD_RANGE,
        Vote.BAD_RANGE,
        Vote.BAD_RANGE,
    ]
    assert harness.read(8, 1) == b"\0"
    assert len(harness.log) == 1
    harness.check()


def test_what_one_request_may_read_is_bounded_at_the_node_too() -> None:
    harness = ParticipantHarness()
    harness.participant.one_phase._capacity = 1 << 40
    harness.memory.capacity = 1 << 40
    many = one_phase(1, read=[(0, 16 * 1024 * 1024)] * 2)
    assert harness.vote(many).vote is Vote.BAD_RANGE
