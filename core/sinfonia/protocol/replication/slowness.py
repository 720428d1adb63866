"""A replica that is alive but slow holds writers up for some seconds, not as long as it is slow.

The primary times one record after another: from when it has that on its own disk to when the
replica acknowledges it.  A replica is *late* while that takes longer than ``ack_within``.  Its
*score* is the time that it was late, and falls again, ``PARDON`` times as fast as time passes,
while it is not.  A replica with a score of ``slow_for`` is slow: it is dropped by a new
configuration, and only then not waited for, as a silent one is.

So one sync that takes long is forgotten.  What holds writers up for more than a sixth of the time
is not; what never takes longer than ``ack_within`` is never slow.  The primary's own disk is no
measure of others: the time begins when the primary first looks with the record on its own disk.

A replica that was dropped for being slow must show that it has become faster: it is sent the log as
before, though writers do not wait for it, and is counted again once its score has fallen to
nothing, and not before its *time out* has passed, in which no writer is paced for it either
(pacing.py).  If it has not made it in about as much time again, it gets another time out.  A time
out is twice as long as the one before, up to ``TIME_OUT_MAX``; that is forgotten when the replica
was in sync for so long.  So a replica that is fast enough only when no client writes rarely holds
up writers.
"""

from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.replication.agreement import ReplicationTimes

# What is forgiven in a second, in seconds.  Late for a sixth of the time is as much as that.
PARDON = 0.2

# The longest time out, in seconds: so late, at most, is a replica counted that is well again.
TIME_OUT_MAX = 300.0

# What counts at most of the time between two looks: they come with each heartbeat, so that in a
# longer time this process itself was stopped.
LOOK_MAX = 0.25

# An acknowledgement's part in the average that is shown.
NEWEST_SHARE = 0.125


class Slowness:
    """How promptly one replica acknowledges; times are the primary's monotonic seconds."""

    __slots__ = (
        "_counted",
        "_in_sync_from",
        "_late",
        "_local_from",
        "_looked_at",
        "_seq",
        "_shipped_at",
        "_time_out_until",
        "_times",
        "_tried_until",
        "ack_seconds",
        "dropped",
        "score",
    )

    def __init__(self, times: ReplicationTimes, now: float) -> None:
        self.score = 0.0
        self.dropped = 0  # how often, lately
        self.ack_seconds = 0.0  # of late, on average
        self._times = times
        self._seq: Seq | None = None  # the record that is timed
        self._shipped_at = now
        self._local_from: float | None = None  # when the primary itself was seen to have it
        self._late = False
        self._looked_at = now
        self._time_out_until = self._tried_until = now
        self._in_sync_from, self._counted = now, False

    # --- what happens --------------------------------------------------------------------------

    def shipped(self, seq: Seq, now: float) -> None:
        """A record is sent to the replica."""
        if self._seq is None:
            self._seq, self._shipped_at, self._local_from = seq, now, None

    def acknowledged(self, seq: Seq, now: float) -> None:
        """The replica has everything up to ``seq``."""
        if self._seq is None or seq < self._seq:
            return
        self._pass_to(now)
        took = now - self._shipped_at
        self.ack_seconds += (took - self.ack_seconds) * NEWEST_SHARE
        self.stop_timing()

    def look(self, local_stable: Seq, now: float) -> None:
        """Every message that has come was seen to, and the primary itself has ``local_stable``."""
        self._pass_to(now)
        if self._seq is None:
            return
        if self._local_from is None:
            # The wake-up in which it was shipped does not know how long its own sync took.
            if now > self._shipped_at and local_stable >= self._seq:
                self._local_from = now
        elif now - self._local_from >= self._times.ack_within:
            self._late = True

    def stop_timing(self) -> None:
        """Nothing is sent to the replica that would be timed."""
        self._seq = self._local_from = None
        self._late = False

    def was_dropped(self, now: float) -> None:
        """It is counted in sync no more because it was slow, or still is not fast enough."""
        if self._counted and now - self._in_sync_from > TIME_OUT_MAX:
            self.dropped = 0
        self._counted = False
        self.dropped += 1
        self.score = self._times.slow_for
        pardoned_after = self._times.slow_for / PARDON
        time_out = min(pardoned_after * 2.0 ** (self.dropped - 1), TIME_OUT_MAX)
        self._time_out_until = now + time_out
        self._tried_until = self._time_out_until + time_out + pardoned_after
        self.stop_timing()

    def is_counted(self, now: float) -> None:
        """It is in sync from now on."""
        self._in_sync_from, self._counted = now, True

    # --- what follows from it ------------------------------------------------------------------

    @property
    def is_slow(self) -> bool:
        """Whether it holds up writers, and should not."""
        return self.score >= self._times.slow_for

    def has_time_out(self, now: float) -> bool:
        """Whether no writer is delayed for its sake yet."""
        return bool(self.dropped) and now < self._time_out_until

    def has_failed_again(self, now: float) -> bool:
        """Whether it had its chance after its time out, and is still not fast enough."""
        return bool(self.dropped) and now >= self._tried_until and bool(self.score)

    def may_be_counted(self, now: float) -> bool:
        """Whether it was never dropped for being slow, or has shown that it keeps up again."""
        return not self.dropped or (now >= self._time_out_until and not self.score)

    def next_look(self) -> float | None:
        """When it will be late, if it is not by then; None: that is not in question."""
        if self._local_from is None or self._late:
            return None
        return self._local_from + self._times.ack_within

    def _pass_to(self, now: float) -> None:
        passed = min(now - self._looked_at, LOOK_MAX)
        self._looked_at = now
        if self._late:
            self.score = min(self._times.slow_for, self.score + passed)
        else:
            self.score = max(0.0, self.score - PARDON * passed)
