"""A user names a cluster by a directory, a description or endpoints; each leads to one handle."""

from pathlib import Path

from sinfonia.config import ClusterConfig, described_at
from sinfonia.operating.cluster_status import ClusterStatus
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.remote_cluster import RemoteCluster


def find_cluster(cluster: str, chosen_keys: Path | None = None) -> LocalCluster | RemoteCluster:
    """The handle on the cluster that a user named, as `resolve_endpoint` takes it.

    A directory made by `sinfonia up` is a local cluster, and everything else a remote one.
    ``chosen_keys``: a key file in place of the cluster's own.  Raises ConfigError.
    """
    path = described_at(cluster)
    if path is None:
        return RemoteCluster(cluster, chosen_keys=chosen_keys)
    if Path(cluster).is_dir():
        return LocalCluster(Path(cluster), chosen_keys=chosen_keys)
    return RemoteCluster(cluster, config=ClusterConfig.load(path), chosen_keys=chosen_keys)


def look_at(cluster: str) -> ClusterStatus:
    """The status of the cluster that a user named.

    Raises ConfigError, or Unreachable if no process tells of the others.
    """
    return find_cluster(cluster).status()
