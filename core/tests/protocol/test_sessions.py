"""Clients come and go: a memory node forgets them, and executes nothing of theirs twice."""

import pytest

from sinfonia.errors import OutcomeUnknown, Overloaded
from sinfonia.protocol import sessions as sessions_module
from sinfonia.protocol.messages import PROTOCOL_VERSION, Commit, ExecCommit, Requests, Vote, Voted
from sinfonia.protocol.records import Forgotten
from sinfonia.protocol.sessions import SessionLimits
from sinfonia.simulation.participant_harness import (
    ParticipantHarness,
    asks_nothing,
    one_phase,
    prepare,
    tid,
)
from sinfonia.simulation.world import World

SHORT_LIVED = 200_000
KEPT = 4


# Idle sessions that are kept are few, and room for new ones is looked for at once.
FEW = SessionLimits(idle_kept=KEPT, look_for_room_every=1)


def come_and_go(harness: ParticipantHarness, clients: int, first: int = 1000) -> None:
    """Each writes once, hears what became of it, and says goodbye."""
    for client in range(first, first + clients):
        generation = harness.participant.state.sessions.generation
        write = one_phase(1, write=[(0, b"x")])
        assert harness.vote(write, client=client, generation=generation).vote is Vote.OK
        assert harness.replies(client=client, floor=2, generation=generation) == []


# --- sessions that hold only a floor -------------------------------------------------------------


@pytest.mark.slow
def test_200_000_short_lived_clients_are_all_served_and_cost_nothing() -> None:
    """Neither at the primary nor at a replica, which has only the log."""
    primary, replica = ParticipantHarness().participant, ParticipantHarness().participant.state
    told = refused = 0
    for client in range(1, SHORT_LIVED + 1):
        write = [one_phase(1, write=[(0, b"x")])]
        while True:
            batch = Requests(PROTOCOL_VERSION, client, 1, 1, write, generation=told)  # type: ignore[arg-type]
            step = primary.on_requests(batch, 0.0)
            for record in step.records:
                replica.replay(record)
            if step.replies[0].vote is Vote.OK:  # type: ignore[union-attr]
                break
            told, refused = primary.state.sessions.generation, refused + 1
        primary.on_requests(Requests(PROTOCOL_VERSION, client, 1, 2, [], generation=told), 0.0)
    assert refused <= SHORT_LIVED / SessionLimits().idle_kept
    primary.check_invariants()
    for state in (primary.state, replica):
        assert len(state.sessions) <= 2 * SessionLimits().idle_kept
        state.check_invariants()
    assert primary.state.sessions.outcomes == 0


def test_a_late_copy_is_not_executed_after_its_session_was_dropped() -> None:
    """The floor that refused it has gone; that its client was told no generation refuses it now."""
    harness = ParticipantHarness(sessions=FEW)
    first = one_phase(1, write=[(0, b"old")])
    assert harness.vote(first).vote is Vote.OK
    assert harness.replies(floor=2) == []
    come_and_go(harness, 3 * KEPT)
    assert harness.participant.state.sessions.get(7) is None
    late = harness.vote(first)
    assert late.vote is Vote.BAD_LOAD
    assert harness.read(0, 3) == b"xld"
    # A later batch brings the floor with the generation.
    generation = harness.participant.state.sessions.generation
    second = one_phase(2, write=[(8, b"new")])
    assert harness.vote(second, floor=2, generation=generation).vote is Vote.OK
    assert harness.vote(first).vote is Vote.BAD_FLOOR
    harness.check()


def test_a_copy_from_before_any_drop_is_not_admitted_by_a_promise() -> None:
    """A promise to abort makes a session without a floor, which admits nobody."""
    harness = ParticipantHarness(sessions=FEW)
    assert harness.vote(one_phase(1, write=[(0, b"old")])).vote is Vote.OK
    assert harness.replies(floor=3) == []
    come_and_go(harness, 3 * KEPT)
    harness.resolve(tid(2), [0, 1])
    assert harness.vote(one_phase(1, write=[(0, b"old")])).vote is Vote.BAD_LOAD
    assert harness.read(0, 3) == b"xld"
    generation = harness.participant.state.sessions.generation
    forced = harness.vote(one_phase(2, write=[(0, b"old")]), floor=2, generation=generation)
    assert forced.vote is Vote.BAD_FORCED


def test_sessions_with_answers_or_anything_in_doubt_stay() -> None:
    harness = ParticipantHarness(sessions=FEW)
    remembered = harness.vote(one_phase(1, read=[(0, 1)], write=[(0, b"a")]))
    prepared = harness.vote(prepare(1, write=[(64, b"b")], client=99), client=99)
    come_and_go(harness, 3 * KEPT)
    assert harness.vote(one_phase(1, read=[(0, 1)], write=[(0, b"a")])) == remembered
    assert harness.vote(prepare(1, write=[(64, b"b")], client=99), client=99) == prepared
    assert harness.participant.votes.duplicates == 2


def test_questions_and_goodbyes_make_no_session() -> None:
    harness = ParticipantHarness()
    assert harness.replies(floor=17) == []
    harness.resolve(tid(1, client=8), [0, 1])
    assert [session.client for session in harness.participant.state.sessions] == [8], "the promise"


def test_a_restart_drops_what_the_former_life_dropped() -> None:
    harness = ParticipantHarness(sessions=FEW)
    come_and_go(harness, 10 * KEPT)
    dropped = [client for r in harness.log if isinstance(r, Forgotten) for client in r.clients]
    assert len(dropped) >= 8 * KEPT
    assert len(set(dropped)) == len(dropped)
    reborn = harness.restarted()
    assert len(reborn.participant.state.sessions) <= 2 * KEPT
    assert reborn.participant.state.sessions.generation == 0
    assert reborn.vote(one_phase(1, write=[(0, b"n")]), client=5).vote is Vote.OK
    reborn.check()


def test_a_waiter_in_line_whose_session_is_dropped_is_asked_again() -> None:
    """Its floor may have risen over the request, and nothing here knows that any more."""
    harness = ParticipantHarness(sessions=FEW)
    assert harness.vote(prepare(1, write=[(64, b"b")], client=99), client=99).vote is Vote.OK
    waiting = one_phase(1, write=[(64, b"c")])
    waiting = ExecCommit(counter=1, epoch=0, writes=waiting.writes, lock_wait_ms=50)
    assert harness.replies(waiting) == []
    assert harness.replies(floor=2) == []
    come_and_go(harness, 3 * KEPT)
    assert harness.participant.state.sessions.get(7) is None
    told = harness.replies(Commit(tid(1, client=99), True), client=99)
    assert Voted(1, Vote.BAD_LOAD) in told
    assert harness.read(64, 1) == b"b"
    assert not harness.participant.one_phase.lock_waits
    harness.check()


# --- bounds of the whole node ---------------------------------------------------------------------


def test_clients_that_died_without_a_word_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is refused is told so for each request; who is known goes on, and makes room."""
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 3)
    harness = ParticipantHarness(sessions=SessionLimits(look_for_room_every=1))
    for client in (1, 2, 3):
        assert harness.vote(one_phase(1, write=[(0, b"x")]), client=client).vote is Vote.OK
    asked = one_phase(1, write=[(0, b"y")]), one_phase(2, write=[(0, b"y")])
    votes = harness.replies(*asked, client=4)
    assert [vote.vote for vote in votes] == [Vote.BAD_LOAD, Vote.BAD_LOAD]  # type: ignore[union-attr]
    assert harness.participant.state.sessions.turned_away == 1
    assert harness.vote(one_phase(2, write=[(0, b"z")]), client=1).vote is Vote.OK
    assert harness.replies(client=1, floor=3) == []
    assert harness.vote(asked[0], client=4).vote is Vote.OK
    harness.participant.check_invariants()


def test_a_client_that_only_reads_needs_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers are not remembered, so that it may be executed as often as it comes."""
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 0)
    harness = ParticipantHarness()
    assert harness.vote(one_phase(1, read=[(0, 1)])).reads == [b"\0"]
    assert harness.vote(prepare(2, read=[(0, 1)], read_only=True)).vote is Vote.OK
    votes = harness.replies(one_phase(3, read=[(0, 1)]), one_phase(4, write=[(0, b"x")]))
    assert {vote.vote for vote in votes} == {Vote.BAD_LOAD}  # type: ignore[union-attr]
    assert len(harness.participant.state.sessions) == 0


def test_what_is_remembered_of_all_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last quarter is for clients of whom little is remembered."""
    monkeypatch.setattr(sessions_module, "OUTCOMES_MAX", 16)
    monkeypatch.setattr(sessions_module, "SMALL_OUTCOMES", 1)
    harness = ParticipantHarness()

    def vote(counter: int, client: int, floor: int = 0) -> Vote:
        write = one_phase(counter, write=[(0, b"x")])
        return harness.vote(write, client=client, floor=floor).vote

    assert {vote(counter, client=1) for counter in range(1, 13)} == {Vote.OK}
    assert vote(13, client=1) is Vote.BAD_LOAD
    assert {vote(1, client) for client in (2, 3, 4, 5)} == {Vote.OK}
    assert vote(1, client=6) is Vote.BAD_LOAD
    assert vote(1, client=2) is Vote.OK, "what is remembered is answered"
    assert vote(13, client=1, floor=13) is Vote.OK
    assert vote(1, client=6) is Vote.OK
    harness.check()


def test_what_all_clients_have_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "OUTCOME_BYTES_MAX", 8192)
    monkeypatch.setattr(sessions_module, "SMALL_OUTCOME_BYTES", 1)
    harness = ParticipantHarness()
    bulky = one_phase(1, read=[(0, 1024)], write=[(0, b"x")])
    for client in range(1, 9):
        assert harness.vote(bulky, client=client).vote is Vote.OK
    assert harness.vote(bulky, client=9).vote is Vote.BAD_LOAD
    assert harness.replies(client=1, floor=2) == []
    assert harness.vote(bulky, client=9).vote is Vote.OK
    harness.check()


# --- the client -----------------------------------------------------------------------------------


def with_generation(world: World) -> ParticipantHarness:
    [harness] = world.harnesses.values()
    come_and_go(harness, 3 * KEPT)
    assert harness.participant.state.sessions.generation > 0
    return harness


def test_a_new_client_is_told_the_generation_and_asks_again_at_once() -> None:
    world = World(1, sessions=FEW)
    with_generation(world)
    call = world.begin(("write", 0, 0, b"x"))
    world.settle()
    assert call.result is not None
    assert call.attempts == 1
    assert len(world.sent) == 2, "no time has passed"
    world.check()


def test_the_generation_of_one_life_says_nothing_to_the_next() -> None:
    world = World(1, sessions=FEW)
    with_generation(world)
    world.begin(("write", 0, 0, b"x"))
    world.settle()
    world.restart(0)
    world.begin(("write", 0, 0, b"y"))
    [(_, _, batch)] = world.on_the_way
    assert batch.generation > 0
    world.settle()
    assert world.coordinator.envelope(batch.node, []).generation == 0  # type: ignore[arg-type]
    world.check()


def test_a_client_that_is_refused_for_want_of_room_is_told_for_certain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 0)
    world = World(1)
    call = world.begin(("write", 0, 0, b"x"), timeout=0.5)
    for _ in range(40):
        world.settle()
        world.pass_time(0.02)
    assert isinstance(call.error, Overloaded)
    assert call.error.definite


def test_it_is_not_certain_if_a_copy_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """That one may have been executed before there was no room."""
    world = World(1)
    call = world.begin(("write", 0, 0, b"x"), timeout=0.5)
    world.lose_everything()
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 0)
    for _ in range(40):
        world.settle()
        world.pass_time(0.02)
    assert isinstance(call.error, OutcomeUnknown)


def test_a_goodbye_ends_what_is_remembered() -> None:
    world = World(2)
    world.begin(("write", 0, 0, b"x"))
    world.settle()
    [harness, other] = world.harnesses.values()
    assert harness.participant.state.sessions.outcomes == 1
    goodbyes = world.coordinator.goodbyes()
    assert list(goodbyes) == [harness.node], "the other was never asked"
    assert asks_nothing(harness.participant.on_requests(goodbyes[harness.node], 0.0))
    assert harness.participant.state.sessions.outcomes == 0
    assert len(other.participant.state.sessions) == 0
