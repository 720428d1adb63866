"""Members give all figures that are listed for what they are, and no others, in every mode."""

import pytest

from sinfonia.figures import member
from sinfonia.figures.figure import Figure, Role
from sinfonia.memnode.node import MemoryNode
from sinfonia.simulation.member_group import MemberGroup

# The server of a member adds them for monitoring; test_metrics_processes.py sees them.
OF_THE_SERVER = {member.HUNG_UP.name, member.TURNED_AWAY.name}


def checked(node: MemoryNode, role: Role) -> set[str]:
    """The names of the figures that ``node`` gives, after they were compared with the table."""
    figures = node.status().figures
    assert list(member.MEMBER.complaints(figures, role)) == []
    assert member.ROLE.read(figures) == role.value
    return set(figures)


def group_with_replica() -> MemberGroup:
    group = MemberGroup("a", "b")
    group.settle(1.0)
    group.write(0, b"one")
    group.write(8, b"two")
    return group


def test_no_figure_is_unlisted_and_none_is_listed_that_is_never_given() -> None:
    group = group_with_replica()
    given = checked(group.nodes["a"], Role.PRIMARY) | checked(group.nodes["b"], Role.REPLICA)
    group.crash("a")
    [segment] = [each for each in group.disks["a"].names() if each.startswith("log.")]
    group.disks["a"].corrupt(segment, 60)
    damaged = checked(group.start("a"), Role.STARTING)
    assert member.DAMAGE.name in damaged
    given |= damaged
    rows = member.MEMBER.rows
    listed = {row.name for row in rows if isinstance(row, Figure)} - OF_THE_SERVER
    families = {row.prefix for row in rows if not isinstance(row, Figure)}
    missing = listed - given
    assert missing == {member.WAITING_FOR.name}, missing
    assert all(any(name.startswith(prefix) for name in given) for prefix in families)


def test_a_member_that_waits_says_for_what() -> None:
    group = MemberGroup("a", "b")
    group.settle(1.0)
    group.crash("b")
    node = group.start("b")
    node.waiting = "its primary"
    assert member.WAITING_FOR.read(node.status().figures) == "its primary"
    assert list(member.MEMBER.complaints(node.status().figures, Role.STARTING)) == []


@pytest.mark.parametrize("mode", ["RAM-REPL", "LOG-REPL", "NVRAM-REPL"])
def test_what_is_listed_for_a_role_is_given_in_every_mode(mode: str) -> None:
    group = MemberGroup("a", "b", mode=mode)
    group.settle(1.0)
    given = checked(group.nodes["a"], Role.PRIMARY)
    checked(group.nodes["b"], Role.REPLICA)
    assert (member.LOG_BYTES.name in given) == (mode != "RAM-REPL")
