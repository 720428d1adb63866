"""What is large in a real cluster is small in a run, so that a short one meets its end; and who
stands in line is watched."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from sinfonia.memnode import checkpointer, copies, leading, node, replica
from sinfonia.protocol import participant_state, sessions
from sinfonia.protocol.replication import pacing, shipping, window
from sinfonia.simulation.fair_line import FairLine
from sinfonia.simulation.profile import Profile


@contextmanager
def small_sizes(profile: Profile) -> Iterator[None]:
    """Copies and checkpoints come in pieces; who was away has missed more than is kept for it."""
    window_bytes = profile.window_bytes
    with ExitStack() as patches:
        things: tuple[tuple[object, str, object], ...] = (
            (copies, "PIECE_BYTES", profile.piece_bytes),
            (checkpointer, "STEP_BYTES", profile.piece_bytes),
            (leading, "APPLY_RECORDS_MAX", profile.apply_records),
            (replica, "APPLY_RECORDS_MAX", profile.apply_records),
            (window, "WINDOW_BYTES_MAX", profile.window_bytes),
            (shipping, "AHEAD_BYTES_MAX", max(window_bytes // 2, 1)),
            (shipping, "JOIN_WITHIN_BYTES", max(window_bytes // 2, 1)),
            (pacing, "CREDIT_BYTES_MAX", max(window_bytes // 4, 1)),
            (pacing, "DEBT_BYTES_MAX", max(window_bytes * 4, 1)),
            (participant_state, "LockWaits", FairLine),
            (node, "MARK_EVERY", profile.mark_every_s),
            (sessions, "IDLE_SESSIONS_KEPT", profile.idle_sessions_kept),
        )
        for module, name, thing in things:
            patches.enter_context(patch.object(module, name, thing))
        yield
