# ruff: noqa: SLF001 - what is broken here is private to its owner, and otherwise nobody's business
"""Broken on purpose: what must be noticed of a disk that no longer holds what was synced."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from unittest.mock import patch

from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.scrubber import Scrubber
from sinfonia.protocol.membership import configuration, registering
from sinfonia.protocol.membership.configuration import Change
from sinfonia.protocol.membership.election import Awaiting, Positions
from sinfonia.protocol.membership.messages import Member, MemoryNodeEntry, Register
from sinfonia.simulation.mutations.mutation import mutation
from sinfonia.storage import log_blocks, redo_log
from sinfonia.storage.address_space import AddressSpace
from sinfonia.storage.disk_image import DiskImage
from sinfonia.storage.files import File
from sinfonia.storage.log_blocks import Lsn
from sinfonia.storage.redo_log import RedoLog


@mutation(profile="replicas-ends-lost-unmarked")
def restarted_primary_leads_uncompared() -> Iterator[None]:
    """A primary that restarted leads only if no in-sync member holds more."""
    primary_again = registering._primary_again

    def broken(
        entry: MemoryNodeEntry, request: Register, alive: Sequence[str], positions: Positions
    ) -> Change | Awaiting:
        with nullcontext() if request.empty else patch.object(registering, "longest", _nobody):
            return primary_again(entry, request, alive, positions)

    with patch.object(registering, "_primary_again", broken):
        yield


def _nobody(_entry: MemoryNodeEntry, _positions: Positions) -> None:
    return None


@mutation(profile="replicas-rotten-disks")
def unproven_replica_promoted() -> Iterator[None]:
    """A replica that restarted may lead only when its log was compared, or proven by a primary."""

    def broken(entry: MemoryNodeEntry) -> list[str]:
        return entry.in_sync

    with patch.object(configuration, "proven", broken):
        yield


@mutation(profile="replicas-rotten-disks")
def rotten_pages_served() -> Iterator[None]:
    """A member whose image has a rotten page serves none of it, and is filled from a copy."""

    def broken(self: DiskImage, replayed: frozenset[int], *, was_saving: bool = True) -> None:
        del replayed, was_saving
        self._suspects.clear()

    with patch.object(DiskImage, "confirm", broken):
        yield


@mutation(profile="rotten-disks")
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


@mutation(profile="scrubbed-disks")
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


@mutation(profile="rotten-disks")
def mark_of_what_was_synced_ignored() -> Iterator[None]:
    """A log that ends before its mark has lost what was synced; it has no torn tail."""

    def broken(_self: redo_log._Found, _synced: Lsn) -> None:
        pass

    with patch.object(redo_log._Found, "refuse_loss_before", broken):
        yield


@mutation(profile="rotten-disks")
def later_header_is_no_proof() -> Iterator[None]:
    """A later header shows that the block before it was synced, be its own block whole or not."""

    def broken(file: File, offset: int, start: Lsn, log_id: int) -> bool:
        sealed = log_blocks._read_sealed(file, offset)
        return sealed is not None and (sealed.log_id, sealed.lsn) == (log_id, start + offset)

    with patch.object(log_blocks, "_is_header", broken):
        yield


@mutation(profile="rotten-disks")
def rotten_page_taken_for_torn() -> Iterator[None]:
    """A page that fails its checksum may be torn only if a checkpoint was saving pages."""
    confirm = DiskImage.confirm

    def broken(self: DiskImage, replayed: frozenset[int], *, was_saving: bool = True) -> None:
        del was_saving
        confirm(self, replayed, was_saving=True)

    with patch.object(DiskImage, "confirm", broken):
        yield
