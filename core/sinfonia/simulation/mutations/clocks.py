"""Broken on purpose: durations, and the room that they leave for clocks of which one runs faster.

A lease has this room twice, at the member that holds it and at the one that grants it; each alone
would do for clocks whose rates differ by a tenth, so that both are taken away together.
"""

from collections.abc import Iterator
from unittest.mock import patch

from sinfonia.protocol.membership.manager import ManagerSettings
from sinfonia.protocol.replication import agreement as replication
from sinfonia.simulation.mutations.mutation import mutation


@mutation(profile="replicas-uneven-clocks", seeds=(46,))
def lease_without_a_margin() -> Iterator[None]:
    """A lease ends earlier for its holder than for its grantor, whatever their clocks."""
    with patch.object(replication, "CLOCK_DRIFT_MARGIN", 0.0):
        yield


@mutation(profile="bouts", seeds=(9, 3, 6))
def recovery_comes_late() -> Iterator[None]:
    """Locks of a dead client stand in the way of others for a bounded time, and no longer."""
    late = property(lambda self: 20 * self.in_doubt_timeout)
    with patch.object(ManagerSettings, "in_doubt_age", late):
        yield
