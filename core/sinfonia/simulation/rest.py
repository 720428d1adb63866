"""What must hold when nothing goes wrong any more: all comes to rest, by itself and in time."""

from sinfonia.simulation.cluster import Cluster
from sinfonia.simulation.invariants import check_bounds, unrest

# Virtual seconds.
REST_S_MAX = 30.0
REST_STEP_S = 0.25


def come_to_rest(cluster: Cluster) -> None:
    """Everything comes back and settles, with nothing left over but the effects."""
    until = cluster.scheduler.now + REST_S_MAX
    while left := _unrest(cluster):
        assert cluster.scheduler.now < until, f"no rest after {REST_S_MAX} s: {left}"
        cluster.pass_time(REST_STEP_S)
    # Each life of a manager is a client, too.
    lives = cluster.events["managers killed"] + len(cluster.managers)
    check_bounds(cluster.nodes, clients=cluster.clients_made + lives)


def compare_replicas(cluster: Cluster) -> None:
    """At rest all members of a memory node hold the same."""
    for group in cluster.groups:
        contents = [member.contents() for member in group]
        for member, its in zip(group, contents, strict=True):
            assert its == contents[0], f"{member.name} differs from {group[0].name}"


def lose_power(cluster: Cluster) -> None:
    """All memory nodes die at once; afterwards they know only what is on their disks."""
    if not cluster.profile.logged:
        return
    before = [group[0].contents() for group in cluster.groups]
    for node in cluster.nodes:
        node.kill()
    come_to_rest(cluster)
    for group, contents in zip(cluster.groups, before, strict=True):
        for member in group:
            assert member.contents() == contents, f"{member.name} came back with other contents"


def _unrest(cluster: Cluster) -> str:
    if cluster.store_losses is not None and cluster.store_losses.lost:
        return "the manager's store is not rebuilt"
    return unrest(cluster.nodes, cluster.managers, cluster.clients)
