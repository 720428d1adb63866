"""The phases of a replica, as its primary sees it."""

from itertools import product

import msgspec
import pytest

from sinfonia.protocol.membership.messages import Member
from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.protocol.replication.peer import TRANSITIONS, Peer, PeerEvent, PeerPhase, Proof

OUT, IN_SYNC = PeerPhase.OUT, PeerPhase.IN_SYNC
MEMBER = Member(identity="b", endpoint="at-b", starts=3, in_sync=False)
COUNTED = msgspec.structs.replace(MEMBER, in_sync=True)
UNPROVEN = msgspec.structs.replace(COUNTED, unproven=True)


def a_peer(member: Member = MEMBER) -> Peer:
    return Peer(member, 0.0, times=ReplicationTimes())


def test_a_peer_joins_is_wished_for_and_then_counted() -> None:
    peer = a_peer()
    assert not peer.required
    peer.due = 7
    peer.on_event(PeerEvent.CAUGHT_UP)
    assert peer.required
    assert not peer.may_be_counted, "it has not all that was answered without it"
    peer.acked = 7
    assert peer.may_be_counted
    peer.on_event(PeerEvent.WISHED_FOR)
    assert peer.required
    assert peer.may_be_counted
    peer.on_member(COUNTED)
    assert peer.phase is IN_SYNC


@pytest.mark.parametrize("phase", [PeerPhase.WISHED, IN_SYNC, PeerPhase.LOST])
def test_what_may_be_made_primary_is_waited_for_until_a_configuration_says_otherwise(
    phase: PeerPhase,
) -> None:
    leading_out = {event for (of, event), to in TRANSITIONS.items() if of is phase and to is OUT}
    assert leading_out == {PeerEvent.NOT_COUNTED}


def test_a_configuration_may_say_either_in_any_phase() -> None:
    for phase in PeerPhase:
        assert TRANSITIONS[phase, PeerEvent.COUNTED] is IN_SYNC
        assert TRANSITIONS[phase, PeerEvent.NOT_COUNTED] is OUT


def test_the_primary_itself_counts_no_peer() -> None:
    counting = {event for (_, event), to in TRANSITIONS.items() if to is IN_SYNC}
    assert counting == {PeerEvent.COUNTED}


def test_what_is_not_in_the_table_is_asserted() -> None:
    illegal = set(product(PeerPhase, PeerEvent)) - TRANSITIONS.keys()
    assert (PeerPhase.WISHED, PeerEvent.GONE) in illegal
    for phase, event in illegal:
        peer = a_peer()
        peer.phase = phase
        with pytest.raises(AssertionError, match=f"b is {phase.value}"):
            peer.on_event(event)
        assert peer.phase is phase


def test_a_peer_that_lacks_something_is_counted_still() -> None:
    peer = a_peer(COUNTED)
    for _ in range(2):
        peer.on_event(PeerEvent.FOUND_LACKING)
        assert peer.phase is PeerPhase.LOST
        assert peer.counted
    peer.on_member(COUNTED)
    assert peer.phase is IN_SYNC, "it is to say so again in this epoch"


def test_the_life_in_doubt_proves_itself_and_no_other() -> None:
    peer = a_peer(UNPROVEN)
    peer.begin_to_prove(starts=4, due=9)
    assert peer.proof is Proof.UNPROVEN
    peer.begin_to_prove(starts=3, due=9)
    peer.begin_to_prove(starts=3, due=20)
    assert (peer.proof, peer.due) == (Proof.PROVING, 9), "what was added since is none of it"
    assert not peer.may_be_proven
    peer.acked = 9
    assert peer.may_be_proven
    peer.on_member(UNPROVEN)
    assert peer.may_be_proven, "a configuration that says the same changes nothing"
    peer.on_member(msgspec.structs.replace(UNPROVEN, starts=5))
    assert peer.proof is Proof.UNPROVEN
    peer.on_member(COUNTED)
    assert peer.proof is Proof.PROVEN


def test_the_invariants_notice_a_peer_in_sync_without_what_is_committed() -> None:
    peer = a_peer(COUNTED)
    peer.pushing, peer.acked = True, 4
    peer.check_invariants(last=9, committed=4)
    with pytest.raises(AssertionError):
        peer.check_invariants(last=9, committed=5)
