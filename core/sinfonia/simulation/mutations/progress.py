"""Broken on purpose: what makes things get better under load.

Each is noticed by a story of simulation/workloads/load.py, named here, not by a profile.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple
from unittest.mock import PropertyMock, patch

from sinfonia.protocol.replication.pacing import Pacing
from sinfonia.protocol.replication.slowness import Slowness


class ProgressMutation(NamedTuple):
    """``broken()`` is the context in which a rule is broken; ``story`` shows that."""

    story: str
    broken: Callable[[], AbstractContextManager[None]]


@contextmanager
def _writers_are_not_paced() -> Iterator[None]:
    """Writers add less to the log than a replica takes that catches up."""
    with patch.object(Pacing, "may_go_on", lambda *_: True):
        yield


@contextmanager
def _log_is_cut_under_a_copier() -> Iterator[None]:
    """The log is kept from where a copy is."""
    with patch.object(Pacing, "needed_after", lambda *_: None):
        yield


@contextmanager
def _slow_replicas_are_kept() -> Iterator[None]:
    """A replica that is slow all the time is given up."""
    with patch.object(Slowness, "is_slow", PropertyMock(return_value=False)):
        yield


@contextmanager
def _slow_replicas_are_counted_again_at_once() -> Iterator[None]:
    """A replica that was given up for being slow must show that it keeps up."""
    with (
        patch.object(Slowness, "may_be_counted", lambda *_: True),
        patch.object(Slowness, "has_time_out", lambda *_: False),
    ):
        yield


PROGRESS_MUTATIONS = {
    "writers-are-not-paced": ProgressMutation("return under load", _writers_are_not_paced),
    "log-is-cut-under-a-copier": ProgressMutation("return under load", _log_is_cut_under_a_copier),
    "slow-replicas-are-kept": ProgressMutation("slow disk", _slow_replicas_are_kept),
    "slow-replicas-are-counted-again-at-once": ProgressMutation(
        "slow disk", _slow_replicas_are_counted_again_at_once
    ),
}
