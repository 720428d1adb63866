"""Who may be primary, replica and in sync: rule by rule, and in any order of requests."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.membership import configuration
from sinfonia.protocol.membership.configuration import REPLICAS_MAX, Change, Refusal
from sinfonia.protocol.membership.election import Awaiting, Position, Positions
from sinfonia.protocol.membership.messages import (
    HandOver,
    Member,
    MemoryNodeEntry,
    Reconfigure,
    Register,
    RemoveReplica,
    WantReplicas,
)
from sinfonia.protocol.membership.operator_requests import (
    on_hand_over,
    on_recreate,
    on_remove_replica,
    on_want_replicas,
)
from sinfonia.protocol.membership.registering import on_register

NODE = MemoryNodeId(3)
MODE = "LOG-REPL"


def register(
    identity: str,
    *,
    endpoint: str = "",
    starts: int = 1,
    empty: bool = False,
    replicas: int = 0,
    mode: str = MODE,
    capacity: int = 1024,
    log: tuple[int, int] = (7, 100),
    known_epoch: int = 0,
    damaged: bool = False,
    life: int = 0,
    complete: bool = False,
) -> Register:
    """``log``: the incarnation that wrote its last record, and the number of that."""
    return Register(
        node=NODE,
        endpoint=endpoint or f"at-{identity}",
        capacity=capacity,
        mode=mode,
        identity=identity,
        starts=starts,
        empty=empty or damaged,
        replicas=replicas,
        lived=log[0],
        last=log[1],
        known_epoch=known_epoch,
        damaged=damaged,
        life=life,
        complete=complete,
    )


def member(
    identity: str, *, in_sync: bool = True, starts: int = 1, unproven: bool = False
) -> Member:
    return Member(
        identity=identity,
        endpoint=f"at-{identity}",
        starts=starts,
        in_sync=in_sync,
        unproven=unproven,
    )


def entry(*replicas: Member, wanted: int | None = None, mode: str = MODE) -> MemoryNodeEntry:
    """Primary ``p`` in its fifth start, and these replicas."""
    wants = len(replicas) if wanted is None else wanted
    return MemoryNodeEntry(
        node=NODE,
        endpoint="at-p",
        capacity=1024,
        mode=mode,
        identity="p",
        incarnation=7,
        starts=5,
        config_epoch=20,
        replicas=list(replicas),
        wanted=wants,
    )


def accepted(change: Change | Awaiting) -> MemoryNodeEntry:
    assert isinstance(change, MemoryNodeEntry), change
    return change


def refused(change: Change | Awaiting) -> str:
    assert isinstance(change, Refusal), change
    return change.reason


def awaited(change: Change | Awaiting) -> Awaiting:
    assert isinstance(change, Awaiting), change
    return change


SHORT, LONG = Position(7, 99), Position(7, 101)


# --- registration --------------------------------------------------------------------------------


def test_the_first_to_register_is_primary_and_says_how_many_replicas_there_should_be() -> None:
    first = accepted(on_register(None, register("p", replicas=2, log=(0, 0)), []))
    assert (first.identity, first.incarnation, first.config_epoch) == ("p", 1, 1)
    assert (first.replicas, first.wanted) == ([], 2)


def test_a_mode_without_replicas_is_not_asked_for_any() -> None:
    assert "keeps no replicas" in refused(
        on_register(None, register("p", replicas=1, mode="LOG"), [])
    )
    assert "more than" in refused(on_register(None, register("p", replicas=99), []))


def test_the_primary_may_ask_again() -> None:
    before = entry(member("a"))
    assert on_register(before, register("p", starts=5, empty=True), []) is before


def test_a_restart_of_the_primary_begins_an_incarnation_and_keeps_the_in_sync_replicas() -> None:
    again = register("p", starts=6, endpoint="new")
    after = accepted(on_register(entry(member("a")), again, [], {"a": SHORT}))
    assert (after.endpoint, after.starts, after.incarnation, after.config_epoch) == (
        "new",
        6,
        8,
        21,
    )
    assert after.in_sync == ["a"]


@pytest.mark.parametrize("identity", ["p", "a"])
def test_a_process_that_was_started_again_since_is_out_of_date(identity: str) -> None:
    before = entry(member("a", starts=5))
    assert "out of date" in refused(on_register(before, register(identity, starts=4), []))


def test_a_primary_that_lost_its_data_gives_way_to_an_in_sync_replica() -> None:
    before = entry(member("a"), member("b"), member("c", in_sync=False))
    after = accepted(on_register(before, register("p", starts=6, empty=True), ["c", "b"]))
    assert (after.identity, after.incarnation, after.config_epoch) == ("b", 8, 21)
    assert after.in_sync == ["a"]
    assert Member(identity="p", endpoint="at-p", starts=6, in_sync=False) in after.replicas


def test_the_memory_node_waits_for_a_replica_that_is_away_but_has_the_data() -> None:
    after = accepted(on_register(entry(member("a")), register("p", starts=6, empty=True), []))
    assert after.identity == "a"


def test_a_primary_that_lost_its_data_is_refused_if_no_replica_has_it() -> None:
    before = entry(member("a", in_sync=False))
    reason = refused(on_register(before, register("p", starts=6, empty=True), ["a"]))
    assert "without its data" in reason
    assert "sinfonia recreate CLUSTER 3" in reason


def test_a_replica_that_restarts_stays_in_sync_if_it_kept_its_data() -> None:
    before = entry(member("a"))
    kept = accepted(on_register(before, register("a", starts=2, endpoint="new"), []))
    assert kept.replicas == [
        Member(identity="a", endpoint="new", starts=2, in_sync=True, unproven=True)
    ]
    assert (kept.incarnation, kept.config_epoch) == (7, 21)
    lost = accepted(on_register(before, register("a", starts=2, empty=True), []))
    assert lost.in_sync == []


def test_a_replica_may_ask_again() -> None:
    before = entry(member("a"))
    assert on_register(before, register("a", empty=True), []) is before


def test_a_new_data_directory_in_the_place_of_a_replica_replaces_it() -> None:
    before = entry(member("a"), member("b"))
    after = accepted(on_register(before, register("new", endpoint="at-a", empty=True), []))
    assert after.replicas == [
        Member(identity="new", endpoint="at-a", starts=1, in_sync=False),
        member("b"),
    ]


def test_a_new_data_directory_in_the_place_of_the_primary_needs_a_replica_to_take_over() -> None:
    before = entry(member("a"))
    stranger = register("new", endpoint="at-p", empty=True)
    after = accepted(on_register(before, stranger, ["a"]))
    assert after.identity == "a"
    assert after.replicas == [Member(identity="new", endpoint="at-p", starts=1, in_sync=False)]
    assert list(awaited(on_register(before, stranger, [])).members) == ["a"]
    assert accepted(on_register(before, stranger, [], {"a": SHORT})).identity == "a"
    alone = entry(member("a", in_sync=False))
    assert "sinfonia recreate" in refused(on_register(alone, stranger, ["a"]))


def test_a_new_member_is_let_in_if_there_is_room() -> None:
    before = entry(member("a"), wanted=2)
    after = accepted(on_register(before, register("b", empty=True), []))
    assert after.replicas == [member("a"), member("b", in_sync=False)]
    assert "sinfonia replica add" in refused(on_register(after, register("c", empty=True), []))


def test_all_members_have_the_same_mode_and_capacity() -> None:
    before = entry(wanted=1)
    assert "mode LOG-REPL, not LOG" in refused(on_register(before, register("a", mode="LOG"), []))
    assert "capacity 1024" in refused(on_register(before, register("a", capacity=2048), []))


def test_after_the_loss_was_accepted_the_first_to_register_begins_anew() -> None:
    given_up = accepted(on_recreate(entry(member("a", in_sync=False)), primary_is_up=False))
    assert given_up.identity == ""
    after = accepted(on_register(given_up, register("a", starts=1), []))
    assert (after.identity, after.incarnation, after.replicas) == ("a", 8, [])


def test_the_loss_of_what_a_replica_holds_cannot_be_accepted() -> None:
    reason = refused(on_recreate(entry(member("a")), primary_is_up=False))
    assert "at-a holds the data" in reason


def test_the_loss_of_what_is_there_cannot_be_accepted() -> None:
    alone = entry(member("a", in_sync=False))
    assert "stop it" in refused(on_recreate(alone, primary_is_up=True))


# --- what primary and operator ask for -----------------------------------------------------------


def reconfigured(before: MemoryNodeEntry, *in_sync: str, incarnation: int, epoch: int) -> Change:
    return configuration.on_reconfigure(
        before,
        Reconfigure(node=NODE, incarnation=incarnation, config_epoch=epoch, in_sync=list(in_sync)),
    )


def test_the_primary_changes_the_in_sync_set_if_it_knows_the_present_configuration() -> None:
    before = entry(member("a"), member("b", in_sync=False))
    after = accepted(reconfigured(before, "b", incarnation=7, epoch=20))
    assert (after.in_sync, after.config_epoch, after.incarnation) == (["b"], 21, 7)
    refused(reconfigured(before, "b", incarnation=7, epoch=19))
    refused(reconfigured(before, "b", incarnation=6, epoch=20))
    refused(reconfigured(before, "stranger", incarnation=7, epoch=20))


def test_a_hand_over_needs_a_replica_that_is_in_sync_and_alive() -> None:
    before = entry(member("a"), member("b", in_sync=False))
    after = accepted(on_hand_over(before, HandOver(NODE, "at-a"), ["a"]))
    assert (after.identity, after.incarnation) == ("a", 8)
    assert Member(identity="p", endpoint="at-p", starts=5, in_sync=False) in after.replicas
    assert on_hand_over(after, HandOver(NODE, "at-a"), []) is after, "repeated"
    for endpoint, alive, why in (
        ("at-b", ["b"], "not in sync"),
        ("at-a", [], "does not answer"),
        ("nowhere", ["a"], "its replicas: at-a, at-b"),
    ):
        change = on_hand_over(before, HandOver(NODE, endpoint), alive)
        assert why in refused(change)


def test_wanting_replicas_makes_room_and_never_takes_one_away() -> None:
    before = entry(member("a"))
    after = accepted(on_want_replicas(before, WantReplicas(NODE, 2)))
    assert (after.wanted, after.config_epoch) == (2, 21)
    assert on_want_replicas(after, WantReplicas(NODE, 2)) is after
    for wanted, why in ((0, "sinfonia replica remove"), (REPLICAS_MAX + 1, "more than")):
        change = on_want_replicas(before, WantReplicas(NODE, wanted))
        assert why in refused(change)
    alone = entry(mode="LOG")
    assert "keeps no" in refused(on_want_replicas(alone, WantReplicas(NODE, 1)))


def removed(before: MemoryNodeEntry, endpoint: str, *, force: bool = False) -> Change:
    return on_remove_replica(before, RemoveReplica(NODE, endpoint, force))


def test_a_replica_is_removed_and_fewer_are_wanted() -> None:
    before = entry(member("a"), member("b"))
    after = accepted(removed(before, "at-a"))
    assert (after.replicas, after.wanted, after.config_epoch) == ([member("b")], 1, 21)
    assert removed(after, "at-a") is after, "repeated"


def test_the_primary_and_the_last_replica_in_sync_are_not_just_removed() -> None:
    before = entry(member("a"), member("b", in_sync=False))
    assert "sinfonia replica promote" in refused(removed(before, "at-p"))
    assert "--force" in refused(removed(before, "at-a"))
    assert accepted(removed(before, "at-a", force=True)).in_sync == []
    assert accepted(removed(before, "at-b")).in_sync == ["a"]


# --- logs that may be damaged --------------------------------------------------------------------


def test_a_restarted_primary_leads_only_when_every_in_sync_replica_has_told_what_it_holds() -> None:
    before = entry(member("a"), member("b"), member("c", in_sync=False))
    again = register("p", starts=6)
    waits = awaited(on_register(before, again, ["a", "b"], {"a": SHORT}))
    assert list(waits.members) == ["b"]
    assert "at-b" in waits.reason
    assert "sinfonia replica remove --force CLUSTER 3 at-b" in waits.reason
    after = accepted(on_register(before, again, ["a", "b"], {"a": SHORT, "b": Position(7, 100)}))
    assert (after.identity, after.starts, after.incarnation) == ("p", 6, 8)


def test_a_restarted_primary_that_holds_less_follows_the_replica_that_holds_most() -> None:
    before = entry(member("a"), member("b"))
    for longest, other in ((Position(7, 101), SHORT), (Position(8, 1), LONG)):
        told = {"a": other, "b": longest}
        after = accepted(on_register(before, register("p", starts=6), [], told))
        assert (after.identity, after.incarnation) == ("b", 8)
        assert Member(identity="p", endpoint="at-p", starts=6, in_sync=False) in after.replicas
        assert after.in_sync == ["a"]


def test_a_primary_that_ended_in_order_need_not_be_compared() -> None:
    before = entry(member("a"), member("b"))
    after = accepted(on_register(before, register("p", starts=6, complete=True), []))
    assert (after.identity, after.starts) == ("p", 6)
    assert after.in_sync == ["a", "b"]
    emptied = register("p", starts=6, complete=True, empty=True)
    assert accepted(on_register(before, emptied, ["a"])).identity == "a"


def test_an_unproven_replica_leads_only_by_a_comparison_of_logs() -> None:
    before = entry(member("a", unproven=True))
    assert configuration.best_proven(before, ["a"]) is None
    hand_over = on_hand_over(before, HandOver(NODE, "at-a"), ["a"])
    assert "not in sync" in refused(hand_over)
    after = accepted(on_register(before, register("p", starts=6), ["a"], {"a": LONG}))
    assert after.identity == "a"


def test_the_primary_s_word_proves_a_replica_in_its_present_life() -> None:
    before = entry(member("a", unproven=True), member("b", in_sync=False))
    waited_for = Reconfigure(node=NODE, incarnation=7, config_epoch=20, in_sync=["a", "b"])
    after = accepted(configuration.on_reconfigure(before, waited_for))
    assert [each.unproven for each in after.replicas] == [True, False], "b was out of sync"
    proven = Reconfigure(
        node=NODE, incarnation=7, config_epoch=20, in_sync=["a", "b"], proven=["a"]
    )
    after = accepted(configuration.on_reconfigure(before, proven))
    assert [each.unproven for each in after.replicas] == [False, False]


def test_a_damaged_primary_gives_way_and_a_damaged_replica_does_not_count() -> None:
    before = entry(member("a"))
    after = accepted(on_register(before, register("p", starts=6, damaged=True), []))
    assert after.identity == "a"
    after = accepted(on_register(before, register("a", starts=2, damaged=True), []))
    assert after.in_sync == []
    alone = entry(member("a", in_sync=False))
    reason = refused(on_register(alone, register("p", starts=6, damaged=True), ["a"]))
    assert "damaged" in reason
    assert "restore it from a backup" in reason


def test_a_damaged_primary_waits_for_unproven_replicas_to_be_compared() -> None:
    before = entry(member("a", unproven=True), member("b", unproven=True))
    again = register("p", starts=6, damaged=True)
    assert list(awaited(on_register(before, again, [], {"a": SHORT})).members) == ["b"]
    after = accepted(on_register(before, again, [], {"a": SHORT, "b": LONG}))
    assert after.identity == "b"


def test_a_new_data_directory_in_the_place_of_the_primary_waits_for_unproven_replicas() -> None:
    """All of them restarted with it: the one that holds most leads."""
    before = entry(member("a", unproven=True), member("b", unproven=True))
    stranger = register("new", endpoint="at-p", empty=True)
    assert list(awaited(on_register(before, stranger, ["a"], {"a": LONG})).members) == ["b"]
    after = accepted(on_register(before, stranger, ["a"], {"a": SHORT, "b": LONG}))
    assert after.identity == "b"


def test_an_older_copy_of_a_data_directory_is_known_by_the_name_of_its_life() -> None:
    before = replace(entry(replace(member("a", starts=4), life=11)), life=12)
    for identity, starts in (("p", 5), ("p", 4), ("a", 4), ("a", 1)):
        refusal = on_register(before, register(identity, starts=starts, life=13), [])
        assert "older copy" in refused(refusal)
        assert isinstance(refusal, Refusal)
        assert refusal.rolled_back == {"p": 5, "a": 4}[identity]
    assert on_register(before, register("p", starts=5, life=12), []) is before


def test_a_directory_that_has_served_is_no_first_registration() -> None:
    reason = awaited(on_register(None, register("a", known_epoch=4), [])).reason
    assert "the manager knows nothing of it" in reason
    assert "sinfonia rebuild-manager" in reason
    accepted(on_register(None, register("a", log=(9, 5)), [])), "restored from a backup"


def test_a_manager_that_knows_less_than_a_member_decides_nothing() -> None:
    before = entry(member("a"))
    reason = awaited(on_register(before, register("a", starts=2, known_epoch=21), [])).reason
    assert "config epoch 21" in reason
    accepted(on_register(before, register("a", starts=2, known_epoch=20), []))


def test_an_operator_may_accept_what_a_replica_lacks_if_the_primary_is_away() -> None:
    before = entry(member("a", in_sync=False), member("b", unproven=True))
    for endpoint in ("at-a", "at-b"):
        force = HandOver(NODE, endpoint, force=True)
        up = on_hand_over(before, force, ["a", "b"], primary_is_up=True)
        assert "nothing needs to be given up" in refused(up)
        after = accepted(on_hand_over(before, force, ["a", "b"], primary_is_up=False))
        assert (after.endpoint, after.incarnation, after.loss_accepted) == (endpoint, 8, 8)
        assert after.in_sync == [], "no other copy counts"


# --- whatever the order --------------------------------------------------------------------------

identities = st.sampled_from(["p", "a", "b", "c", "d"])
alive_lists = st.lists(identities, unique=True)
positions = st.builds(Position, st.integers(6, 8), st.integers(98, 102))
told = st.dictionaries(identities, positions)
requests = st.one_of(
    st.builds(
        register,
        identities,
        endpoint=st.sampled_from(["", "at-p", "at-a", "at-b"]),
        starts=st.integers(1, 9),
        empty=st.booleans(),
        log=positions,
    ),
    st.builds(lambda to: HandOver(NODE, f"at-{to}"), identities),
    st.builds(
        lambda who, force: RemoveReplica(NODE, f"at-{who}", force), identities, st.booleans()
    ),
    st.builds(lambda wanted: WantReplicas(NODE, wanted), st.integers(0, 4)),
    st.just(None),
)


def step(
    before: MemoryNodeEntry,
    request: Register | HandOver | RemoveReplica | WantReplicas | None,
    alive: Sequence[str],
    told: Positions,
) -> Change | Awaiting:
    if isinstance(request, Register):
        return on_register(before, request, alive, told)
    if isinstance(request, HandOver):
        return on_hand_over(before, request, alive)
    if isinstance(request, RemoveReplica):
        return on_remove_replica(before, request)
    if isinstance(request, WantReplicas):
        return on_want_replicas(before, request)
    return on_recreate(before, primary_is_up=before.identity in alive)


@given(st.lists(st.tuples(requests, alive_lists, told), max_size=12))
def test_no_order_of_requests_breaks_the_law(
    steps: list[
        tuple[
            Register | HandOver | RemoveReplica | WantReplicas | None,
            list[str],
            dict[str, Position],
        ]
    ],
) -> None:
    """Who becomes primary was in sync; nobody gets in sync; every change has an epoch.

    Who becomes primary after a restart, its own or the primary's, holds most.
    """
    now = entry(member("a"), member("b"), member("c", in_sync=False))
    for request, alive, positions in steps:
        change = step(now, request, alive, positions)
        if isinstance(change, Refusal | Awaiting):
            assert change.reason
            continue
        if isinstance(request, Register) and not request.empty:
            before = {each.identity: each for each in now.replicas}
            if request.identity == now.identity and change.incarnation > now.incarnation:
                mine = Position(request.lived, request.last)
                held = {now.identity: mine, **{each: positions[each] for each in now.in_sync}}
                assert held[change.identity] == max(held.values())
            elif change.identity != now.identity and now.identity:
                assert not before[change.identity].unproven
        if change != now:
            assert change.config_epoch == now.config_epoch + 1
        if now.identity and change.identity not in (now.identity, ""):
            assert change.identity in now.in_sync
        if (change.identity, change.starts) != (now.identity, now.starts) and change.identity:
            # No life has the number of an earlier one, though the store may not have heard of that.
            lived = 0
            if isinstance(request, Register) and request.identity == change.identity:
                lived = request.lived
            assert change.incarnation == max(now.incarnation, lived) + 1
        else:
            assert change.incarnation == now.incarnation
        assert set(change.in_sync) <= set(now.in_sync)
        members = [change.identity, *(each.identity for each in change.replicas)]
        assert len(members) == len(set(members)), "nobody is two members"
        now = change
