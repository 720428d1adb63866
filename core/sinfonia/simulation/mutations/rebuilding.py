"""Broken on purpose: what a manager without its store may decide, and what it is rebuilt from."""

from collections.abc import Iterator, Sequence
from unittest.mock import PropertyMock, patch

from sinfonia.protocol.membership import rebuilding
from sinfonia.protocol.membership.messages import MemoryNodeEntry
from sinfonia.simulation.mutations.mutation import instead_of, mutation
from sinfonia.storage.known_configuration import KnownConfiguration


@mutation(profile="replicas-store-lost", seeds=(5, 3, 2))
def a_served_directory_is_a_first_registration() -> Iterator[None]:
    """A data directory that has served before is never let in as if no member had been there."""
    # Members hold to it, too: they follow no configuration that is older than what they kept.
    with patch.object(KnownConfiguration, "config_epoch", PropertyMock(return_value=0)):
        yield


@mutation(profile="replicas-store-put-back", seeds=(7, 6, 2))
def a_manager_older_than_its_members_decides() -> Iterator[None]:
    """A manager that knows less than a member has seen decides nothing about it."""
    with patch.object(KnownConfiguration, "config_epoch", PropertyMock(return_value=0)):
        yield


@instead_of(rebuilding, "_newest", profile="replicas-store-lost", seeds=(12, 3, 7))
def rebuilt_from_any_configuration(
    _original: object, kept: Sequence[MemoryNodeEntry]
) -> MemoryNodeEntry:
    """What is restored is the newest configuration that any member has kept."""
    return min(kept, key=lambda entry: entry.config_epoch)
