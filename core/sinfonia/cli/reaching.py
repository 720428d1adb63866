"""A command reaches the CLUSTER that it was given in one way, with the keys that it was given."""

from sinfonia.keys_option import chosen_keys
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.named_cluster import find_cluster
from sinfonia.operating.remote_cluster import RemoteCluster


def reached(cluster: str) -> LocalCluster | RemoteCluster:
    """The handle on the CLUSTER of a command.  Raises ConfigError."""
    return find_cluster(cluster, chosen_keys(cluster))
