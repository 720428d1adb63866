"""Who may be primary, replica and in sync: rule by rule, and in any order of requests."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol import configuration
from sinfonia.protocol.configuration import REPLICAS_MAX, Change, Refusal, on_register
from sinfonia.protocol.management_messages import (
    HandOver,
    Member,
    MemoryNodeEntry,
    Reconfigure,
    Register,
    RemoveReplica,
    WantReplicas,
)

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
) -> Register:
    return Register(
        NODE, endpoint or f"at-{identity}", capacity, mode, identity, starts, empty, replicas
    )


def member(identity: str, *, in_sync: bool = True, starts: int = 1) -> Member:
    return Member(identity, f"at-{identity}", starts, in_sync)


def entry(*replicas: Member, wanted: int | None = None, mode: str = MODE) -> MemoryNodeEntry:
    """Primary ``p`` in its fifth start, and these replicas."""
    wants = len(replicas) if wanted is None else wanted
    return MemoryNodeEntry(NODE, "at-p", 1024, mode, "p", 7, 5, 20, list(replicas), wants)


def accepted(change: Change) -> MemoryNodeEntry:
    assert isinstance(change, MemoryNodeEntry), change
    return change


def refused(change: Change) -> str:
    assert isinstance(change, Refusal), change
    return change.reason


# --- registration --------------------------------------------------------------------------------


def test_who_is_heard_of_first_is_primary_and_says_how_many_replicas_there_should_be() -> None:
    first = accepted(on_register(None, register("p", replicas=2), []))
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


def test_a_restart_of_the_primary_begins_an_incarnation_and_keeps_who_is_in_sync() -> None:
    after = accepted(on_register(entry(member("a")), register("p", starts=6, endpoint="new"), []))
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
    assert Member("p", "at-p", 6, False) in after.replicas


def test_the_memory_node_waits_for_a_replica_that_is_away_but_has_the_data() -> None:
    after = accepted(on_register(entry(member("a")), register("p", starts=6, empty=True), []))
    assert after.identity == "a"


def test_a_primary_that_lost_its_data_is_refused_if_nobody_else_has_it() -> None:
    before = entry(member("a", in_sync=False))
    reason = refused(on_register(before, register("p", starts=6, empty=True), ["a"]))
    assert "without its data" in reason
    assert "sinfonia recreate CLUSTER 3" in reason


def test_a_replica_that_restarts_stays_in_sync_if_it_kept_its_data() -> None:
    before = entry(member("a"))
    kept = accepted(on_register(before, register("a", starts=2, endpoint="new"), []))
    assert kept.replicas == [Member("a", "new", 2, True)]
    assert (kept.incarnation, kept.config_epoch) == (7, 21)
    lost = accepted(on_register(before, register("a", starts=2, empty=True), []))
    assert lost.in_sync == []


def test_a_replica_may_ask_again() -> None:
    before = entry(member("a"))
    assert on_register(before, register("a", empty=True), []) is before


def test_a_new_data_directory_in_the_place_of_a_replica_replaces_it() -> None:
    before = entry(member("a"), member("b"))
    after = accepted(on_register(before, register("new", endpoint="at-a", empty=True), []))
    assert after.replicas == [Member("new", "at-a", 1, False), member("b")]


def test_a_new_data_directory_in_the_place_of_the_primary_needs_somebody_to_take_over() -> None:
    before = entry(member("a"))
    stranger = register("new", endpoint="at-p", empty=True)
    after = accepted(on_register(before, stranger, ["a"]))
    assert after.identity == "a"
    assert after.replicas == [Member("new", "at-p", 1, False)]
    assert "no in-sync replica is up" in refused(on_register(before, stranger, []))
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


def test_after_the_loss_was_accepted_whoever_comes_first_begins_anew() -> None:
    given_up = accepted(
        configuration.on_recreate(entry(member("a", in_sync=False)), primary_is_up=False)
    )
    assert given_up.identity == ""
    after = accepted(on_register(given_up, register("a", starts=1), []))
    assert (after.identity, after.incarnation, after.replicas) == ("a", 8, [])


def test_the_loss_of_what_a_replica_holds_cannot_be_accepted() -> None:
    reason = refused(configuration.on_recreate(entry(member("a")), primary_is_up=False))
    assert "at-a holds the data" in reason


def test_the_loss_of_what_is_there_cannot_be_accepted() -> None:
    alone = entry(member("a", in_sync=False))
    assert "stop it" in refused(configuration.on_recreate(alone, primary_is_up=True))


# --- what primary and operator ask for -----------------------------------------------------------


def reconfigured(before: MemoryNodeEntry, *in_sync: str, incarnation: int, epoch: int) -> Change:
    return configuration.on_reconfigure(
        before, Reconfigure(NODE, incarnation, epoch, list(in_sync))
    )


def test_the_primary_changes_who_is_in_sync_if_it_knows_the_present_configuration() -> None:
    before = entry(member("a"), member("b", in_sync=False))
    after = accepted(reconfigured(before, "b", incarnation=7, epoch=20))
    assert (after.in_sync, after.config_epoch, after.incarnation) == (["b"], 21, 7)
    refused(reconfigured(before, "b", incarnation=7, epoch=19))
    refused(reconfigured(before, "b", incarnation=6, epoch=20))
    refused(reconfigured(before, "stranger", incarnation=7, epoch=20))


def test_a_hand_over_needs_a_replica_that_is_in_sync_and_alive() -> None:
    before = entry(member("a"), member("b", in_sync=False))
    after = accepted(configuration.on_hand_over(before, HandOver(NODE, "at-a"), ["a"]))
    assert (after.identity, after.incarnation) == ("a", 8)
    assert Member("p", "at-p", 5, False) in after.replicas
    assert configuration.on_hand_over(after, HandOver(NODE, "at-a"), []) is after, "repeated"
    for endpoint, alive, why in (
        ("at-b", ["b"], "not in sync"),
        ("at-a", [], "does not answer"),
        ("nowhere", ["a"], "its replicas: at-a, at-b"),
    ):
        change = configuration.on_hand_over(before, HandOver(NODE, endpoint), alive)
        assert why in refused(change)


def test_wanting_replicas_makes_room_and_never_takes_one_away() -> None:
    before = entry(member("a"))
    after = accepted(configuration.on_want_replicas(before, WantReplicas(NODE, 2)))
    assert (after.wanted, after.config_epoch) == (2, 21)
    assert configuration.on_want_replicas(after, WantReplicas(NODE, 2)) is after
    for wanted, why in ((0, "sinfonia replica remove"), (REPLICAS_MAX + 1, "more than")):
        change = configuration.on_want_replicas(before, WantReplicas(NODE, wanted))
        assert why in refused(change)
    alone = entry(mode="LOG")
    assert "keeps no" in refused(configuration.on_want_replicas(alone, WantReplicas(NODE, 1)))


def removed(before: MemoryNodeEntry, endpoint: str, *, force: bool = False) -> Change:
    return configuration.on_remove_replica(before, RemoveReplica(NODE, endpoint, force))


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


# --- whatever the order --------------------------------------------------------------------------

identities = st.sampled_from(["p", "a", "b", "c", "d"])
alive_lists = st.lists(identities, unique=True)
requests = st.one_of(
    st.builds(
        register,
        identities,
        endpoint=st.sampled_from(["", "at-p", "at-a", "at-b"]),
        starts=st.integers(1, 9),
        empty=st.booleans(),
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
) -> Change:
    if isinstance(request, Register):
        return on_register(before, request, alive)
    if isinstance(request, HandOver):
        return configuration.on_hand_over(before, request, alive)
    if isinstance(request, RemoveReplica):
        return configuration.on_remove_replica(before, request)
    if isinstance(request, WantReplicas):
        return configuration.on_want_replicas(before, request)
    return configuration.on_recreate(before, primary_is_up=before.identity in alive)


@given(st.lists(st.tuples(requests, alive_lists), max_size=12))
def test_no_order_of_requests_breaks_the_law(
    steps: list[tuple[Register | HandOver | RemoveReplica | WantReplicas | None, list[str]]],
) -> None:
    """Who becomes primary was in sync; nobody gets in sync; every change has an epoch."""
    now = entry(member("a"), member("b"), member("c", in_sync=False))
    for request, alive in steps:
        change = step(now, request, alive)
        if isinstance(change, Refusal):
            assert change.reason
            continue
        if change != now:
            assert change.config_epoch == now.config_epoch + 1
        if now.identity and change.identity not in (now.identity, ""):
            assert change.identity in now.in_sync
        if (change.identity, change.starts) != (now.identity, now.starts) and change.identity:
            assert change.incarnation == now.incarnation + 1
        else:
            assert change.incarnation == now.incarnation
        assert set(change.in_sync) <= set(now.in_sync)
        members = [change.identity, *(each.identity for each in change.replicas)]
        assert len(members) == len(set(members)), "nobody is two members"
        now = change
