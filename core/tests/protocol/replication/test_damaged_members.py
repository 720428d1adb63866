"""A member whose disk lost what was synced never leads with less, and is filled from a copy."""

import msgspec
import pytest

from sinfonia.errors import StorageError
from sinfonia.memnode.settings import State
from sinfonia.protocol.membership.messages import Member, MemoryNodeEntry, Registered
from sinfonia.protocol.records import Batch, Stamp, encode_body
from sinfonia.protocol.replication.agreement import lacks
from sinfonia.protocol.replication.following import Follower
from sinfonia.protocol.replication.limits import ReplicationLimits
from sinfonia.protocol.replication.messages import Appended, ImageBegun, Join, Life
from sinfonia.protocol.replication.pacing import Pacing
from sinfonia.protocol.replication.shipping import Shipping
from sinfonia.simulation.member_group import NODE, TIMES, MemberGroup
from sinfonia.storage.damage import DAMAGED_FILE
from sinfonia.storage.files import SECTOR_BYTES
from sinfonia.storage.known_configuration import CONFIGURATION_FILE


def in_sync_group(*names: str) -> MemberGroup:
    group = MemberGroup(*names)
    group.settle(1.0)
    assert set(group.entry.in_sync) == set(names[1:])
    return group


def damage_log(group: MemberGroup, name: str) -> None:
    """A bit of the first block rots; others follow it."""
    [segment] = [each for each in group.disks[name].names() if each.startswith("log.")]
    group.disks[name].corrupt(segment, 60)


# --- a member finds its data damaged -------------------------------------------------------------


def test_a_damaged_member_holds_nothing_and_says_so() -> None:
    group = in_sync_group("a", "b")
    group.write(0, b"one")
    group.write(8, b"two")
    group.crash("a")
    damage_log(group, "a")
    node = group.start("a")
    assert node.state is State.STARTING
    registration = node.registration()
    assert (registration.empty, registration.damaged, registration.last) == (True, True, 0)
    assert "acknowledged writes are lost" in str(node.status().figures["damage"])


def test_a_damaged_primary_is_filled_from_the_in_sync_replica_that_leads() -> None:
    group = in_sync_group("a", "b")
    group.write(0, b"one")
    group.write(8, b"two")
    group.crash("a")
    damage_log(group, "a")
    group.start("a")
    group.appoint("b", others=["a"])
    group.settle(4.0)
    assert group.entry.in_sync == ["a"]
    a = group.nodes["a"]
    assert (a.member_state.damage, a.status().figures["repairs"]) == ("", 1)
    assert (a.space.read(0, 3), a.space.read(8, 3)) == (b"one", b"two")
    group.crash("a")
    assert group.start("a").member_state.damage == "", "the copy is sound"


def test_nothing_of_a_damaged_directory_is_touched_before_the_copy_comes() -> None:
    group = in_sync_group("a", "b")
    group.write(0, b"one")
    group.write(8, b"two")
    group.crash("a")
    damage_log(group, "a")
    before = {name: _content(group, "a", name) for name in group.disks["a"].names()}
    group.start("a")
    group.cut.add("b")
    group.appoint("b", others=["a"])
    group.settle(3.0)
    after = {name: _content(group, "a", name) for name in group.disks["a"].names()}
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed <= {"identity", CONFIGURATION_FILE, "synced"}


def _content(group: MemberGroup, member: str, name: str) -> bytes:
    file = group.disks[member].open(name)
    return file.read_at(0, file.size())


def test_a_page_that_rotted_ends_the_life_and_the_next_one_is_filled() -> None:
    group = MemberGroup("a", "b", checkpoint_log_bytes=SECTOR_BYTES)
    group.settle(1.0)
    for number in range(8):
        group.write(number * 4096, b"page")
    group.settle(2.0)
    group.crash("b")
    group.disks["b"].corrupt("image", 4096)
    group.start("b")
    group.register("b")
    group.settle(0.5)
    assert "its data is damaged" in group.nodes["b"].over
    assert group.disks["b"].exists(DAMAGED_FILE)
    group.nodes.pop("b").close()
    assert "fail their checksum" in group.start("b").member_state.damage
    group.register("b")
    group.settle(4.0)
    assert group.entry.in_sync == ["b"]
    assert not group.disks["b"].exists(DAMAGED_FILE)
    assert group.nodes["b"].space.read(4096, 4) == b"page"


def test_an_older_copy_of_a_directory_counts_on_and_is_filled() -> None:
    group = in_sync_group("a", "b")
    node = group.nodes["b"]
    refusal = Registered(node.starts, 0, group.directory, "out of date", rolled_back=7)
    node.on_manager(refusal, group.now)
    assert not node.over, "it has a part; the answer is a former life's"
    group.crash("b")
    node = group.start("b")
    node.on_manager(msgspec.structs.replace(refusal, starts=node.starts), group.now)
    assert "older copy" in node.over
    group.nodes.pop("b").close()
    node = group.start("b")
    assert node.starts == 8
    assert node.registration().damaged


# --- what a member remembers of its configuration ------------------------------------------------


def test_a_member_follows_no_configuration_that_is_older_than_one_it_has_had_a_part_in() -> None:
    group = in_sync_group("a", "b")
    seen = group.entry.config_epoch
    group.crash("b")
    node = group.start("b")
    assert node.registration().known_epoch == seen
    me = Member(identity="b", endpoint="b", starts=node.starts, in_sync=False)
    stale = msgspec.structs.replace(group.entry, config_epoch=seen - 1, replicas=[me])
    group.directory = msgspec.structs.replace(
        group.directory, version=group.directory.version + 1, nodes=[stale]
    )
    group.tell("b")
    assert node.state is State.STARTING


def test_a_member_of_one_cluster_serves_no_other() -> None:
    group = in_sync_group("a", "b")
    group.crash("b")
    node = group.start("b")
    other = msgspec.structs.replace(group.directory, cluster="another")
    with pytest.raises(StorageError, match="belongs to cluster 'test', and the manager to 'ano"):
        node.on_manager(Registered(node.starts, 0, other), group.now)


# --- replicas prove themselves, and primaries find out about themselves --------------------------


def a_shipping(*, unproven: bool = True, loss_accepted: int = 0) -> Shipping:
    """The primary of incarnation 3; its log ends with record 10, the replica has life 2."""
    b = Member(identity="b", endpoint="b", starts=2, in_sync=True, unproven=unproven)
    entry = MemoryNodeEntry(
        node=NODE,
        endpoint="a",
        capacity=1024,
        mode="LOG-REPL",
        identity="a",
        incarnation=3,
        starts=1,
        config_epoch=5,
        replicas=[b],
        loss_accepted=loss_accepted,
    )
    limits = ReplicationLimits()
    return Shipping(
        entry,
        times=TIMES,
        history=[Life(2, 1), Life(3, 11)],
        last=10,
        now=0.0,
        limits=limits,
        pacing=Pacing(limits),
    )


def join(*, last: int, starts: int = 2, committed: int = 0, lives: list[Life]) -> Join:
    return Join(
        node=NODE,
        identity="b",
        starts=starts,
        config_epoch=5,
        last=last,
        applied=committed,
        history=lives,
        committed=committed,
    )


def test_a_replica_that_restarted_is_proven_when_it_holds_all_that_there_was_as_it_joined() -> None:
    primary = a_shipping()
    primary.ship(Batch(11, 2, encode_body([Stamp(1), Stamp(2)])), 0.0)
    primary.on_join(b"b", join(last=10, lives=[Life(2, 1)]), 0.1)
    assert primary.wish(0.2) is None, "it lacks what was logged before it joined"
    primary.on_appended(
        b"b", Appended(identity="b", starts=2, config_epoch=5, last=12, sent_at=0.1), 0.2
    )
    wish = primary.wish(0.3)
    assert wish is not None
    assert (wish.in_sync, wish.proven) == (["b"], ["b"])


def test_a_join_of_a_former_life_proves_nothing_of_the_present_one() -> None:
    primary = a_shipping()
    primary.on_join(b"b", join(last=10, starts=1, lives=[Life(2, 1)]), 0.1)
    assert primary.wish(0.3) is None


def test_a_replica_that_lost_its_log_is_dropped_and_never_proven() -> None:
    primary = a_shipping()
    primary.on_stable(10)
    primary.committed = 10
    primary.on_join(b"b", join(last=7, lives=[Life(2, 1)]), 0.1)
    wish = primary.wish(0.3)
    assert wish is not None
    assert (wish.in_sync, wish.proven) == ([], [])


@pytest.mark.parametrize(
    ("theirs", "committed", "lost"),
    [
        ([Life(2, 1)], 10, 0),
        ([Life(2, 1)], 11, 2),
        ([Life(2, 1), Life(3, 11)], 11, 3),
        ([Life(1, 1)], 5, 0),  # so early lives are not remembered here
        ([Life(1, 1)], 0, 0),
        ([], 5, 0),
    ],
)
def test_what_a_log_lacks_is_told_by_lives_and_only_where_they_are_remembered(
    theirs: list[Life], committed: int, lost: int
) -> None:
    assert lacks([Life(2, 1), Life(3, 11)], 10, theirs, committed) == lost


def test_a_primary_that_lacks_what_all_had_leads_no_further() -> None:
    primary = a_shipping(unproven=False)
    assert primary.on_join(b"b", join(last=12, committed=12, lives=[Life(2, 1)]), 0.1) == []
    assert "holds record 12 of incarnation 2" in primary.lacking
    accepted = a_shipping(unproven=False, loss_accepted=3)
    assert accepted.on_join(b"b", join(last=12, committed=12, lives=[Life(2, 1)]), 0.1)
    assert not accepted.lacking, "an operator has accepted that loss"


def test_what_follows_a_copy_belongs_to_the_life_that_wrote_it() -> None:
    """Found by simulation (seed 1108 with replicas): the copy was of a life that had logged nothing
    yet, and what followed was ascribed to the life before."""
    entry = MemoryNodeEntry(
        node=NODE,
        endpoint="a",
        capacity=1024,
        mode="LOG-REPL",
        identity="a",
        incarnation=3,
        starts=1,
        config_epoch=1,
        replicas=[Member(identity="b", endpoint="b", starts=1, in_sync=False)],
    )
    follower = Follower(
        entry,
        identity="b",
        starts=1,
        times=TIMES,
        log=(0, 0, []),
        expendable=True,
        worthless=True,
        now=0.0,
    )
    image = ImageBegun(
        incarnation=3,
        seq=10,
        history=[Life(2, 1), Life(3, 11)],
        state=b"",
        pages=1,
        capacity=1024,
        page_bytes=4096,
    )
    follower.on_reply(image, 0.1)
    assert follower.history == [Life(2, 1)]
