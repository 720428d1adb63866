"""What one process promises for a while and another counts on, on clocks as uneven as is allowed.

The machines are asked what they count, and each clock how long that really is.
"""

from itertools import product

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.attempts import Attempt
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Vote, Voted
from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.simulation.clock import RATE_MAX, RATE_MIN

RATES = list(product((RATE_MIN, 1.0, RATE_MAX), repeat=2))

READ_LEASE = 0.25


@pytest.mark.parametrize(("primary", "replica"), RATES)
def test_a_primary_counts_on_no_lease_that_its_replica_holds_for_over(
    primary: float, replica: float
) -> None:
    times = ReplicationTimes()
    assert times.counted_lease / primary < times.granted_lease / replica


@pytest.mark.parametrize(("coordinator", "participant"), RATES)
def test_votes_on_a_snapshot_are_believed_no_longer_than_its_locks_are_held(
    coordinator: float, participant: float
) -> None:
    votes = {MemoryNodeId(0): Voted(1, Vote.OK, [], [], READ_LEASE)}
    attempt = Attempt(None, Tid(0, 7, 1), 0.0, {}, True, votes)
    released = READ_LEASE / participant
    assert not attempt.still_held(released * coordinator)
    assert attempt.still_held(0.8 * released * coordinator)
