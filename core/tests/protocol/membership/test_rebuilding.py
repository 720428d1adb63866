"""Which configuration is restored when a manager's store was lost, and when none may be."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import ConfigError
from sinfonia.protocol.membership.configuration import COUNT_MAX
from sinfonia.protocol.membership.messages import Directory, Member, MemoryNodeEntry
from sinfonia.protocol.membership.rebuilding import MARGIN, MemberReport, NodePlan, plan_rebuild

NODE = MemoryNodeId(3)


def entry(
    config_epoch: int = 20,
    replicas: Sequence[Member] = (Member(identity="a", endpoint="at-a", starts=2, in_sync=True),),
    identity: str = "p",
) -> MemoryNodeEntry:
    return MemoryNodeEntry(
        node=NODE,
        endpoint=f"at-{identity}",
        capacity=1024,
        mode="LOG-REPL",
        identity=identity,
        incarnation=7,
        starts=5,
        config_epoch=config_epoch,
        replicas=list(replicas),
        wanted=1,
    )


def report(
    identity: str,
    kept: MemoryNodeEntry | None,
    *,
    starts: int = 5,
    log: tuple[int, int] = (7, 100),
    running: bool = False,
    empty: bool = False,
    damage: str = "",
    configuration_damaged: bool = False,
    cluster: str = "c",
) -> MemberReport:
    return MemberReport(
        NODE,
        identity,
        "LOG-REPL",
        1024,
        starts,
        f"/data/{identity}",
        running,
        *log,
        empty=empty,
        damage=damage,
        cluster="" if kept is None else cluster,
        version=0 if kept is None else 40,
        entry=kept,
        configuration_damaged=configuration_damaged,
    )


def plan_of(*reports: MemberReport, force: bool = False) -> NodePlan:
    [plan] = plan_rebuild(reports, force=force).nodes
    return plan


def restored(plan: NodePlan) -> MemoryNodeEntry:
    assert plan.entry is not None
    return plan.entry


def test_the_newest_configuration_is_restored_later_than_anything_that_was_said() -> None:
    dropped = entry(21, [Member(identity="a", endpoint="at-a", starts=2, in_sync=False)])
    plan = plan_rebuild([report("a", entry(20)), report("p", dropped)])
    [node] = plan.nodes
    assert (node.found, node.objections, node.losses) == (21, [], [])
    after = restored(node)
    assert (after.identity, after.in_sync) == ("p", [])
    assert after.config_epoch == 21 + MARGIN
    assert after.incarnation == 7 + MARGIN
    assert plan.directory.version == 40 + MARGIN
    assert plan.directory.cluster == "c"


def test_every_member_that_the_newest_configuration_names_must_have_reported() -> None:
    out_of_sync = entry(20, [Member(identity="a", endpoint="at-a", starts=2, in_sync=False)])
    for missing, role in (("p", "primary"), ("a", "replica, not in sync")):
        present = "a" if missing == "p" else "p"
        [objection] = plan_of(report(present, out_of_sync)).objections
        assert f"its {role} at at-{missing} has not reported" in objection
        assert "acknowledged" in objection
        assert "later configuration than config epoch 20" in objection
    assert not plan_of(report("p", out_of_sync), report("a", out_of_sync)).objections


def test_a_member_that_the_newest_configuration_does_not_name_may_be_missing() -> None:
    with_b = entry(
        20,
        [
            Member(identity="a", endpoint="at-a", starts=2, in_sync=True),
            Member(identity="b", endpoint="at-b", starts=1, in_sync=False),
        ],
    )
    without_b = entry(21)
    plan = plan_of(report("p", without_b), report("a", with_b))
    assert not plan.objections
    assert [each.identity for each in restored(plan).replicas] == ["a"]


def test_an_older_copy_of_a_data_directory_is_no_report_of_that_member() -> None:
    [objection] = plan_of(report("p", entry(), starts=4), report("a", entry())).objections
    assert "older copy" in objection
    assert "started 4 times, not 5" in objection


def test_a_configuration_that_cannot_be_read_may_have_been_the_newest() -> None:
    damaged = report("a", None, configuration_damaged=True)
    [objection] = plan_of(report("p", entry()), damaged).objections
    assert "the configuration that the member in /data/a kept is damaged" in objection
    [objection] = plan_of(report("p", entry()), report("a", None)).objections
    assert "has lost the configuration that it kept" in objection
    # A newcomer that holds nothing may not have heard yet that it is named.
    assert not plan_of(report("p", entry()), report("a", None, empty=True)).objections


def test_damaged_data_is_reported_as_lost_only_if_no_whole_copy_is_left() -> None:
    damaged = report("p", entry(), damage="a bad block")
    assert not plan_of(damaged, report("a", entry())).losses
    [loss] = plan_of(damaged, report("a", entry(), damage="another")).losses
    assert "none of the members that held all of it reports undamaged data" in loss
    # What an out-of-sync replica holds is not all of it.
    dropped = entry(21, [Member(identity="a", endpoint="at-a", starts=2, in_sync=False)])
    assert plan_of(report("p", dropped, damage="a bad block"), report("a", dropped)).losses


def test_restarted_members_compare_their_logs_before_one_leads() -> None:
    after = restored(plan_of(report("p", entry()), report("a", entry())))
    assert [(each.in_sync, each.unproven) for each in after.replicas] == [(True, True)]


def test_a_memory_node_that_goes_on_is_not_disturbed() -> None:
    """Its primary would lose what is in memory only, if it had to begin anew."""
    running = [report("p", entry(), running=True), report("a", entry(), starts=2, running=True)]
    after = restored(plan_of(*running))
    assert after.incarnation == 7
    assert after.config_epoch == 20 + MARGIN
    assert not after.replicas[0].unproven
    # One that has started since and waits to be let in does not lead.
    waiting = [replace(running[0], starts=6), running[1]]
    assert restored(plan_of(*waiting)).incarnation == 7 + MARGIN


def test_by_force_a_missing_member_delays_nothing_and_its_writes_are_given_up() -> None:
    plan = plan_of(report("p", entry()), force=True)
    assert plan.objections, "the risk is still named"
    after = restored(plan)
    assert after.in_sync == []
    assert after.loss_accepted == after.incarnation == 7 + MARGIN
    assert restored(plan_of(report("p", entry()))).loss_accepted == 0, "nothing was accepted"


def test_a_store_that_is_there_counts_as_one_more_that_kept_something() -> None:
    stored = Directory(90, 4, "c", [entry(25)], ["tcp://m"])
    plan = plan_rebuild([report("p", entry()), report("a", entry())], known=stored)
    [node] = plan.nodes
    assert node.found == 25
    assert plan.directory.version == 90 + MARGIN
    assert plan.directory.managers == ["tcp://m"]
    older = Directory(9, 4, "c", [entry(10)])
    plan = plan_rebuild([report("p", entry()), report("a", entry())], known=older)
    assert plan.nodes[0].found == 20


def test_a_memory_node_of_which_no_member_reports_is_not_forgotten() -> None:
    reports = [report("p", entry()), report("a", entry())]
    plan = plan_rebuild(reports, expected=[NODE, MemoryNodeId(4)])
    assert plan.objections == ["memory node 4: none of its members has reported"]


def test_what_does_not_go_together_is_refused() -> None:
    for reports, why in (
        ([report("p", entry()), report("a", entry(), cluster="d")], "several clusters: c, d"),
        ([report("p", entry()), report("p", entry())], "2 reports of the data directory p"),
        ([report("p", None)], "nothing to rebuild"),
        ([], "nothing to rebuild"),
    ):
        with pytest.raises(ConfigError, match=why):
            plan_rebuild(reports)


def test_two_histories_of_one_config_epoch_are_not_chosen_from_in_silence() -> None:
    other = replace(entry(20), identity="a", endpoint="at-a")
    objections = plan_of(report("p", entry()), report("a", other)).objections
    assert any("two different configurations of config epoch 20" in each for each in objections)


def test_a_report_goes_through_a_file_as_it_is() -> None:
    before = report("a", entry(), damage="a bad block")
    assert msgspec.json.decode(msgspec.json.encode(before), type=MemberReport) == before


@given(st.integers(0, 50), st.integers(0, 50), st.booleans(), st.booleans())
def test_a_rebuilt_entry_is_later_and_stays_in_bounds(
    epoch: int, lived: int, running: bool, force: bool
) -> None:
    kept = entry(epoch + 1)
    reports = [report("p", kept, log=(lived, 1), running=running), report("a", None)]
    after = restored(plan_of(*reports, force=force))
    assert COUNT_MAX > after.config_epoch > kept.config_epoch
    assert COUNT_MAX > after.incarnation >= max(kept.incarnation, 0 if running else lived)
