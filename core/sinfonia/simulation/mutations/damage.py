# ruff: noqa: SLF001 - what is broken here is private to its owner
"""Broken on purpose: what must be noticed of a disk that no longer holds what was synced."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from unittest.mock import patch

from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.scrubber import Scrubber
from sinfonia.protocol.membership import configuration, registering
from sinfonia.protocol.membership.configuration import Change
from sinfonia.protocol.membership.election import Awaiting, Positions
from sinfonia.protocol.membership.messages import Member, MemoryNodeEntry, Register
from sinfonia.simulation.mutations.mutation import instead_of, mutation
from sinfonia.storage import log_blocks, redo_log
from sinfonia.storage.address_space import AddressSpace
from sinfonia.storage.disk_image import DiskImage
from sinfonia.storage.files import File
from sinfonia.storage.log_blocks import Lsn
from sinfonia.storage.redo_log import RedoLog


@instead_of(
    registering, "_primary_again", profile="replicas-ends-lost-unmarked", seeds=(13, 37, 28)
)
def restarted_primary_leads_uncompared(
    primary_again: Callable[..., Change | Awaiting],
    entry: MemoryNodeEntry,
    request: Register,
    alive: Sequence[str],
    positions: Positions,
) -> Change | Awaiting:
    """A primary that restarted leads only if no in-sync member holds more."""
    with nullcontext() if request.empty else patch.object(registering, "longest", _none):
        return primary_again(entry, request, alive, positions)


def _none(_entry: MemoryNodeEntry, _positions: Positions) -> None:
    return None


@instead_of(configuration, "proven", profile="replicas-rotten-disks", seeds=(39, 3, 2))
def unproven_replica_promoted(_original: object, entry: MemoryNodeEntry) -> list[str]:
    """A replica that restarted may lead only when its log was compared, or proven by a primary."""
    return entry.in_sync


@instead_of(DiskImage, "confirm", profile="replicas-rotten-disks", seeds=(3, 11, 20))
def rotten_pages_served(
    _original: object, self: DiskImage, replayed: frozenset[int], *, was_saving: bool = True
) -> None:
    """A member whose image has a rotten page serves none of it, and is filled from a copy."""
    del replayed, was_saving
    self._suspects.clear()


@mutation(profile="rotten-disks", seeds=(16, 30, 4))
def older_copy_taken_for_the_same_life() -> Iterator[None]:
    """Two lives with the same number are told apart by their names: one is of an older copy."""

    def same(request: Register, known: Member | MemoryNodeEntry) -> bool:
        return request.starts == known.starts

    def me(self: MemoryNode, named: Member | MemoryNodeEntry) -> bool:
        return named.identity == self.identity and named.starts == self.starts

    with (
        patch.object(registering, "_is_same_life", same),
        patch.object(MemoryNode, "_is_me", me),
    ):
        yield


@mutation(profile="scrubbed-disks", seeds=(9,))
def rot_found_and_left() -> Iterator[None]:
    """What the scrubber finds is replaced from memory before a restart needs it."""
    with (
        patch.object(Scrubber, "_see_to_repairs", _do_nothing),
        patch.object(AddressSpace, "touch", _do_nothing),
        patch.object(RedoLog, "begin_segment", _do_nothing),
    ):
        yield


def _do_nothing(*_arguments: object) -> None:
    pass


@instead_of(redo_log._Found, "refuse_loss_before", profile="rotten-disks", seeds=(29, 24, 9))
def mark_of_what_was_synced_ignored(
    _original: object, _self: redo_log._Found, _synced: Lsn
) -> None:
    """A log that ends before its mark has lost what was synced; it has no torn tail."""


@instead_of(log_blocks, "_is_header", profile="rotten-disks", seeds=(10, 14, 1))
def later_header_is_no_proof(
    _original: object, file: File, offset: int, start: Lsn, log_id: int
) -> bool:
    """A later header shows that the block before it was synced, be its own block whole or not."""
    sealed = log_blocks._read_sealed(file, offset)
    return sealed is not None and (sealed.log_id, sealed.lsn) == (log_id, start + offset)


@instead_of(DiskImage, "confirm", profile="rotten-disks", seeds=(12, 68, 43))
def rotten_page_taken_for_torn(
    confirm: Callable[..., None],
    self: DiskImage,
    replayed: frozenset[int],
    *,
    was_saving: bool = True,
) -> None:
    """A page that fails its checksum may be torn only if a checkpoint was saving pages."""
    del was_saving
    confirm(self, replayed, was_saving=True)
