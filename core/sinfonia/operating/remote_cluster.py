"""A cluster elsewhere: its addresses are known, and none of its processes is within reach."""

from collections.abc import Sequence
from pathlib import Path

from sinfonia.cluster_keys import resolve_keys
from sinfonia.config import ClusterConfig
from sinfonia.endpoints import endpoints_of, host_of
from sinfonia.operating.asked_cluster import AskedCluster
from sinfonia.operating.cluster_view import names_of
from sinfonia.operating.handle import ProcessPlace
from sinfonia.operating.operators import ProcessesHere
from sinfonia.transport.keys import Keys


class RemoteCluster(AskedCluster):
    """A cluster that is known by endpoints, or by a description."""

    def __init__(
        self, name: str, *, config: ClusterConfig | None = None, chosen_keys: Path | None = None
    ) -> None:
        """The cluster at the endpoints in ``name``, or that ``config`` describes.

        ``chosen_keys``: a key file in place of the cluster's own.  Raises ConfigError.
        """
        self._name = name
        self._config = config
        self._chosen_keys = chosen_keys
        if config is None:
            self._asked = endpoints_of(name)
        else:
            self._asked = [process.endpoint for process in config.processes]

    @property
    def name(self) -> str:
        """What a command takes as CLUSTER to mean this cluster."""
        return self._name

    @property
    def asked(self) -> Sequence[str]:
        """Endpoints of processes that tell of the others."""
        return self._asked

    @property
    def description(self) -> ClusterConfig | None:
        """The cluster's description; None: only endpoints are known."""
        return self._config

    @property
    def keys(self) -> Keys | None:
        """With what to connect; None: the cluster has no keys.  Raises ConfigError."""
        return resolve_keys(self._name, self._chosen_keys)

    def places(self) -> list[ProcessPlace]:
        """All processes, the managers first.  Raises Unreachable if no process tells of them."""
        with self.view() as view:
            sight = view.look()
            status = view.status(sight)
        nodes = {process.name: process.node for process in status.processes}
        return [
            ProcessPlace(name, endpoint, host_of(endpoint), nodes[name])
            for name, endpoint in names_of(sight, self._config).items()
        ]

    @property
    def pid_of(self) -> None:
        """No process is within reach."""

    def _processes_here(self) -> ProcessesHere | None:
        return None
