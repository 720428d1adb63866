"""What is large in a real cluster is small in a run, so that a short one meets its end.

Copies and checkpoints come in pieces, and a replica that was away has missed more than is kept for
it.  The line for locks checks the order in which waiters leave.
"""

from sinfonia.addresses import MemoryNodeId
from sinfonia.memnode.settings import ApplyLimits, CheckpointLimits, MemoryNodeSettings
from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.protocol.replication.limits import ReplicationLimits
from sinfonia.protocol.sessions import SessionLimits
from sinfonia.simulation.fair_line import FairLine
from sinfonia.simulation.profile import Profile

LOG_SEGMENT_BYTES = 8 * 1024


def settings_of(
    profile: Profile, node: MemoryNodeId, *, endpoint: str, capacity: int
) -> MemoryNodeSettings:
    """The settings of one member of ``node``."""
    window = profile.window_bytes
    return MemoryNodeSettings(
        node=node,
        endpoint=endpoint,
        capacity=capacity,
        mode=profile.mode,
        log_segment_bytes=LOG_SEGMENT_BYTES,
        keep_log_bytes=profile.keep_log_bytes,
        read_lease=profile.read_lease_s,
        settle_max=profile.settle_s_max,
        replicas=profile.replicas,
        scrub_rate=profile.scrub_rate,
        mark_every=profile.mark_every_s,
        times=ReplicationTimes(
            lease=profile.lease_s,
            drop_after=profile.drop_after_s,
            ack_within=profile.ack_within_s,
        ),
        replication=ReplicationLimits(
            window=window,
            ahead=max(window // 2, 1),
            join_within=max(window // 2, 1),
            credit=max(window // 4, 1),
            debt=max(window * 4, 1),
            piece=profile.piece_bytes,
        ),
        checkpoints=CheckpointLimits(
            log_bytes=profile.checkpoint_log_bytes, step_bytes=profile.piece_bytes
        ),
        applying=ApplyLimits(records=profile.apply_records),
        sessions=SessionLimits(idle_kept=profile.idle_sessions_kept),
        lock_line=FairLine,
    )
