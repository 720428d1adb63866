"""A dead peer pins little, and nothing grows without end: at a bound a memory node says no."""

import pytest

from sinfonia.protocol import one_phase as one_phase_module
from sinfonia.protocol import sessions as sessions_module
from sinfonia.protocol import two_phase as two_phase_module
from sinfonia.protocol.messages import Commit, Forget, Vote
from sinfonia.simulation.member_group import MemberGroup
from sinfonia.simulation.participant_harness import ParticipantHarness, one_phase, prepare, tid

LIMIT = 5


def test_outcomes_that_a_dead_peer_has_not_heard_are_kept_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its coordinator cannot let them be forgotten (section 4.7)."""
    monkeypatch.setattr(two_phase_module, "DECIDED_MAX", LIMIT)
    harness = ParticipantHarness()
    for counter in range(1, LIMIT + 1):
        assert harness.vote(prepare(counter, write=[(8 * counter, b"x")])).vote is Vote.OK
        harness.step(Commit(tid(counter), True))
    assert len(harness.participant.state.decided) == LIMIT
    refused = prepare(LIMIT + 1, write=[(8, b"y")])
    assert harness.vote(refused).vote is Vote.BAD_LOAD
    assert harness.vote(one_phase(100, write=[(0, b"z")])).vote is Vote.OK, (
        "what needs no peer goes on"
    )
    harness.step(Forget([tid(1)]))
    assert harness.vote(refused).vote is Vote.OK, "nothing of the refused was remembered"


def test_undecided_minitransactions_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_phase_module, "IN_DOUBT_MAX", LIMIT)
    harness = ParticipantHarness()
    for counter in range(1, LIMIT + 1):
        assert harness.vote(prepare(counter, write=[(8 * counter, b"x")])).vote is Vote.OK
    assert harness.vote(prepare(LIMIT + 1, write=[(0, b"y")])).vote is Vote.BAD_LOAD
    assert len(harness.participant.state.locks) == LIMIT, "a refusal holds no locks"


def test_a_dead_replica_does_not_pin_the_log() -> None:
    """What is kept for it is bounded; beyond that it copies the image."""
    group = MemberGroup("a", "b", keep_log_bytes=64 * 1024, checkpoint_log_bytes=64 * 1024)
    group.settle(1.0)
    group.crash("b")
    group.settle(1.5)
    for number in range(300):
        group.write(number % 64 * 4096, bytes([number % 255 + 1]) * 4096)
    log_bytes = group.nodes["a"].status().figures["log_bytes"]
    assert isinstance(log_bytes, int)
    assert log_bytes <= 5 * 64 * 1024


def test_one_client_leaves_room_for_others_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "IN_DOUBT_PER_SESSION_MAX", LIMIT)
    harness = ParticipantHarness()
    for counter in range(1, LIMIT + 1):
        assert harness.vote(prepare(counter, write=[(8 * counter, b"x")])).vote is Vote.OK
    assert harness.vote(prepare(LIMIT + 1, write=[(0, b"y")])).vote is Vote.BAD_LOAD
    other = prepare(1, write=[(0, b"y")], client=99)
    assert harness.vote(other, client=99).vote is Vote.OK
    harness.commit(tid(1))
    assert harness.vote(prepare(LIMIT + 1, write=[(8, b"y")])).vote is Vote.OK


def test_what_one_client_has_in_doubt_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "IN_DOUBT_BYTES_PER_SESSION_MAX", 200)
    harness = ParticipantHarness()
    assert harness.vote(prepare(1, read=[(0, 100)], write=[(100, bytes(100))])).vote is Vote.OK
    assert harness.vote(prepare(2, write=[(200, b"x")])).vote is Vote.BAD_LOAD
    reborn = harness.restarted()
    assert reborn.vote(prepare(2, write=[(200, b"x")])).vote is Vote.BAD_LOAD, "counted again"
    reborn.commit(tid(1), action=False)
    assert reborn.vote(prepare(2, write=[(200, b"x")])).vote is Vote.OK


def test_what_is_remembered_of_one_client_is_bounded_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answers that were read are kept for a client that lost them, until it raises its floor."""
    monkeypatch.setattr(sessions_module, "OUTCOME_BYTES_PER_SESSION_MAX", 2000)
    monkeypatch.setattr(sessions_module, "COUNTED_BYTES_MIN", 64)
    monkeypatch.setattr(one_phase_module, "COUNTED_BYTES_MIN", 64)
    harness = ParticipantHarness()
    large = [one_phase(n, read=[(0, 1000)], write=[(0, b"x")]) for n in range(1, 4)]
    for request in large[:2]:
        assert harness.vote(request).vote is Vote.OK
    assert harness.vote(large[2]).vote is Vote.BAD_LOAD
    assert harness.vote(large[0]).vote is Vote.OK, "what is remembered is answered"
    assert harness.vote(one_phase(1, write=[(0, b"z")]), client=99).vote is Vote.OK
    assert harness.vote(large[2], floor=2).vote is Vote.OK
