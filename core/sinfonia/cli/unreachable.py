"""A user whose command reaches no process is told what to do, as far as this machine knows.

An address that is silent may be anything; a directory of `sinfonia up` says whether its processes
run, and a word that is no directory is probably a mistyped one.
"""

from pathlib import Path

from sinfonia.config import described_at
from sinfonia.errors import ConfigError, Unreachable
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.process_table import RUN_DIRECTORY


def explained(error: Unreachable, cluster: str | None) -> str:
    """``error`` for the user who named ``cluster``, or none."""
    if cluster is None:
        return str(error)
    try:
        if described_at(cluster) is None:
            return f"{error}{_not_a_directory(cluster)}"
        directory = Path(cluster)
        made_here = (directory / RUN_DIRECTORY).is_dir()
        if made_here and not LocalCluster(directory).running:
            return f"the cluster in {directory} is not running; start it: sinfonia up {directory}"
    except ConfigError:
        pass  # it was read a moment ago, and what happened then is in ``error``
    return str(error)


def _not_a_directory(cluster: str) -> str:
    if ":" in cluster or "." in cluster:
        return ""
    return f" There is no directory {cluster!r} here, so that it was taken for a host."
