"""What is large in a real cluster is small in a run, so that a short one meets its end."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from sinfonia.memnode import checkpointer, copies, leading, replica
from sinfonia.protocol import shipping
from sinfonia.testing.profile import Profile


@contextmanager
def small_sizes(profile: Profile) -> Iterator[None]:
    """Copies and checkpoints come in pieces; who was away has missed more than is kept for it."""
    window = profile.window_bytes
    with ExitStack() as patches:
        for module, name, size in (
            (copies, "PIECE_BYTES", profile.piece_bytes),
            (checkpointer, "STEP_BYTES", profile.piece_bytes),
            (leading, "APPLY_RECORDS_MAX", profile.apply_records),
            (replica, "APPLY_RECORDS_MAX", profile.apply_records),
            (shipping, "WINDOW_BYTES_MAX", window),
            (shipping, "AHEAD_BYTES_MAX", max(window // 2, 1)),
            (shipping, "JOIN_WITHIN_BYTES", max(window // 2, 1)),
        ):
            patches.enter_context(patch.object(module, name, size))
        yield
