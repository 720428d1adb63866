"""The atlas of faults: it lets no fault take the last copy of anything."""

from msgspec.structs import replace

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.membership.messages import Member, MemoryNodeEntry
from sinfonia.simulation.fault_atlas import FaultAtlas


def entry(*replicas: Member, starts: int = 3) -> MemoryNodeEntry:
    return MemoryNodeEntry(
        node=MemoryNodeId(0),
        endpoint="at-p",
        capacity=1024,
        mode="LOG-REPL",
        identity="p",
        incarnation=1,
        starts=starts,
        config_epoch=9,
        replicas=list(replicas),
        wanted=len(replicas),
    )


def member(
    identity: str, *, starts: int = 1, in_sync: bool = True, unproven: bool = False
) -> Member:
    return Member(
        identity=identity,
        endpoint=f"at-{identity}",
        starts=starts,
        in_sync=in_sync,
        unproven=unproven,
    )


def test_a_member_may_be_struck_as_long_as_another_in_sync_one_is_intact() -> None:
    atlas, both = FaultAtlas(), entry(member("a"))
    assert atlas.may_strike(both, "p")
    assert atlas.may_strike(both, "a")
    atlas.note("p", 3)
    assert atlas.may_strike(both, "p"), "it is struck already"
    assert not atlas.may_strike(both, "a")


def test_a_member_that_is_not_in_sync_is_no_copy() -> None:
    atlas = FaultAtlas()
    assert not atlas.may_strike(entry(member("a", in_sync=False)), "p")
    assert atlas.may_strike(entry(member("a", in_sync=False)), "a"), "it is no copy that counts"


def test_a_single_copy_may_never_be_struck() -> None:
    assert not FaultAtlas().may_strike(entry(), "p")


def test_an_unproven_member_with_a_sound_disk_is_a_copy() -> None:
    assert FaultAtlas().may_strike(entry(member("a", unproven=True)), "p")


def test_of_three_two_may_be_struck() -> None:
    atlas, three = FaultAtlas(), entry(member("a"), member("b"))
    atlas.note("p", 3)
    atlas.note("a", 1)
    assert not atlas.may_strike(three, "b")
    assert atlas.intact(three) == ["b"]


def test_a_replica_that_was_struck_is_a_copy_again_once_a_later_life_is_proven() -> None:
    atlas, lives = FaultAtlas(), [("p", 3), ("a", 4), ("a", 5)]
    atlas.note("a", 4)
    for not_yet in (
        entry(member("a", starts=4)),
        entry(member("a", starts=5, unproven=True)),
        entry(member("a", starts=5, in_sync=False)),
    ):
        atlas.look(not_yet, lives)
        assert not atlas.may_strike(not_yet, "p")
    again = entry(member("a", starts=5))
    atlas.look(again, [("a", 4)])
    assert not atlas.may_strike(again, "p"), "its replay may still find a rotten page"
    atlas.look(again, lives)
    assert atlas.may_strike(again, "p")


def test_a_primary_that_was_struck_is_a_copy_again_once_a_later_life_leads_and_has_replayed() -> (
    None
):
    atlas, before = FaultAtlas(), entry(member("a"))
    atlas.note("p", 3)
    atlas.look(before, [("p", 3)])
    assert not atlas.is_intact("p")
    after = replace(before, starts=4)
    atlas.look(after, [])
    assert not atlas.is_intact("p")
    atlas.look(after, [("p", 4)])
    assert atlas.is_intact("p")
