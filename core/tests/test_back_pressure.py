"""A dead peer pins little, and nothing grows without end: at a bound a memory node says no."""

import pytest

from sinfonia.protocol import participant as participant_module
from sinfonia.protocol.messages import Commit, Forget, Vote
from sinfonia.testing.member_group import MemberGroup
from sinfonia.testing.parties import Party, one_phase, prepare, tid

LIMIT = 5


def test_outcomes_that_a_dead_peer_has_not_heard_are_kept_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its coordinator cannot let them be forgotten (section 4.7)."""
    monkeypatch.setattr(participant_module, "DECIDED_MAX", LIMIT)
    party = Party()
    for counter in range(1, LIMIT + 1):
        assert party.vote(prepare(counter, write=[(8 * counter, b"x")])).vote is Vote.OK
        party.effects(Commit(tid(counter), True))
    assert len(party.participant.decided) == LIMIT
    refused = prepare(LIMIT + 1, write=[(8, b"y")])
    assert party.vote(refused).vote is Vote.BAD_LOAD
    assert party.vote(one_phase(100, write=[(0, b"z")])).vote is Vote.OK, (
        "what needs no peer goes on"
    )
    party.effects(Forget([tid(1)]))
    assert party.vote(refused).vote is Vote.OK, "nothing of the refused was remembered"


def test_undecided_minitransactions_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participant_module, "IN_DOUBT_MAX", LIMIT)
    party = Party()
    for counter in range(1, LIMIT + 1):
        assert party.vote(prepare(counter, write=[(8 * counter, b"x")])).vote is Vote.OK
    assert party.vote(prepare(LIMIT + 1, write=[(0, b"y")])).vote is Vote.BAD_LOAD
    assert len(party.participant.locks) == LIMIT, "a refusal holds no locks"


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
