"""A cluster on this machine is a directory: its description, data and logs, and what runs of it.

::

    DIR/cluster.toml        the description that every process reads
    DIR/manager/ DIR/node0/ ...   data directories
    DIR/keys/               the keys that may connect, if it was made with keys; see keys.py
    DIR/log/NAME.log        what each process printed
    DIR/run/NAME.pid        the process that runs; see processes.py

NAME is ``manager`` (or ``manager0``, ``manager1``, ...), ``node0``, ``node1``, ... and for replicas
``node0r1``, ...  Starting starts what is not running, be it all or one process that was killed.
The hosts of the processes may be network namespaces of this machine.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import SEEK_END
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from sinfonia.cluster_keys import resolve_keys
from sinfonia.config import (
    ClusterConfig,
    MemberDescription,
    SecurityDescription,
    Times,
    as_mode,
    config_file,
)
from sinfonia.errors import ConfigError, DataDirectoryInUse
from sinfonia.operating.asked_cluster import AskedCluster
from sinfonia.operating.cluster_view import PidOf
from sinfonia.operating.handle import (
    LOG_TEXT_BYTES,
    START_TIMEOUT,
    STOP_PATIENCE,
    Condition,
    HostNetwork,
    ProcessPlace,
)
from sinfonia.operating.local_description import (
    LOOPBACK,
    free_ports,
    new_cluster,
    refuse_taken,
    with_metrics,
    write_description,
)
from sinfonia.operating.operators import ProcessesHere
from sinfonia.operating.process_table import RUN_DIRECTORY, ProcessTable
from sinfonia.operating.processes import ProcessIdentity, end, pause, uninterrupted
from sinfonia.operating.refusals import NotRunning
from sinfonia.operating.rivals import refuse_rivals
from sinfonia.operating.sights import OnSight
from sinfonia.operating.starting import OnServing, Start
from sinfonia.storage.data_directory import DirectoryLock
from sinfonia.transport.keygen import make_cluster_keys
from sinfonia.transport.keys import Keys

__all__ = ["LOOPBACK", "LocalCluster", "free_ports"]

KEYS = "keys"


class LocalCluster(AskedCluster):
    """The processes of one cluster directory, whose state is in the directory."""

    def __init__(
        self,
        directory: Path,
        *,
        chosen_keys: Path | None = None,
        network: HostNetwork | None = None,
    ) -> None:
        """The cluster in ``directory``.  Raises ConfigError if there is none.

        ``chosen_keys``: a key file in place of the cluster's own.  ``network``: its processes run
        on hosts of this network, which are named for them, and the caller is on one, too.
        """
        self._file = config_file(directory).resolve()
        self._version = _version_of(self._file)
        self._config = ClusterConfig.load(self._file)
        self.directory = directory.resolve()
        self.network = network
        self._name = str(directory)
        self._chosen_keys = chosen_keys

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        memory_nodes: int,
        mode: str,
        capacity: int,
        ports: Sequence[int],
        replicas: int = 0,
        managers: int = 1,
        etcd: Sequence[str] = (),
        times: Times | None = None,
        secure: bool = False,
        metrics_ports: Sequence[int] = (),
    ) -> Self:
        """Describe a new cluster in ``directory``, the first manager on the first of ``ports``.

        ``secure``: make keys for it in ``directory``; no peer may connect without one.
        ``metrics_ports``: one for each process, if they are to answer Prometheus.
        Raises ConfigError or StartFailed, and then nothing was made: there is something else in
        ``directory``, or on a port.
        """
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(f"{directory} is not empty and holds no cluster; choose another")
        config = new_cluster(
            directory.resolve().name,
            memory_nodes=memory_nodes,
            mode=as_mode(mode),
            capacity=capacity,
            ports=ports,
            replicas=replicas,
            managers=managers,
            etcd=etcd,
            times=times,
        )
        if metrics_ports:
            config = with_metrics(config, metrics_ports)
        refuse_rivals((process.endpoint for process in config.processes), config.cluster, None)
        for process in config.processes:
            if process.metrics:
                refuse_taken(process.metrics)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make {directory}: {error.strerror}") from error
        if secure:
            make_cluster_keys(directory / KEYS, cluster=config.cluster)
            security = SecurityDescription(keys=KEYS)
            config = msgspec.structs.replace(config, security=security)
        write_description(config, directory)
        return cls(directory)

    # --- what it is ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What a command takes as CLUSTER to mean this cluster."""
        return self._name

    @property
    def config(self) -> ClusterConfig:
        """The description of the cluster; another process may have changed it.

        Raises ConfigError.
        """
        version = _version_of(self._file)
        if version != self._version:
            self._config, self._version = ClusterConfig.load(self._file), version
        return self._config

    @property
    def description(self) -> ClusterConfig:
        """The description of the cluster."""
        return self.config

    @property
    def asked(self) -> Sequence[str]:
        """The endpoints of all processes."""
        return list(self.endpoints.values())

    @property
    def keys(self) -> Keys | None:
        """With what to connect; None: the cluster has no keys.  Raises ConfigError."""
        return resolve_keys(str(self.directory), self._chosen_keys)

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return self.config.endpoint

    @property
    def endpoints(self) -> dict[str, str]:
        """The endpoint of each process by name, the managers first."""
        return {process.name: process.endpoint for process in self.config.processes}

    def places(self) -> list[ProcessPlace]:
        """All processes, the managers first."""
        return self._table.places()

    def change(self, config: ClusterConfig) -> None:
        """Describe the cluster anew; what runs goes on as it is.  Raises ConfigError."""
        for process in config.processes:
            if process.endpoint not in self.endpoints.values():
                refuse_taken(process.endpoint)
        write_description(config, self.directory)

    # --- its processes ---------------------------------------------------------------------------

    def process(self, name: str) -> ProcessIdentity | None:
        """The running process ``name``, if it runs.  Raises ConfigError."""
        self._table.described(name)
        return self._table.find(name)

    @property
    def pid_of(self) -> PidOf:
        """Tells the pid of a process by its name; None if it does not run."""
        return lambda name: None if (found := self._table.find(name)) is None else found.pid

    @property
    def running(self) -> dict[str, ProcessIdentity]:
        """The processes that run, by name."""
        return self._table.running

    def start(
        self,
        names: Sequence[str] = (),
        *,
        timeout: float = START_TIMEOUT,
        on_serving: OnServing = lambda _: None,
        on_sight: OnSight = lambda _: None,
        go_on: bool = False,
    ) -> list[str]:
        """As ClusterHandle has it.

        ``on_serving`` is called for each process that serves, ``on_sight`` with every look.  With
        ``go_on``, what can be started is left running when a process refuses to start, or does not
        serve; StartFailed is raised all the same.
        """
        with self._alone():
            start = Start(
                self._table,
                timeout=timeout,
                on_serving=on_serving,
                on_sight=on_sight,
                go_on=go_on,
            )
            return start.run(self._known(names))

    def launch(self, names: Sequence[str] = ()) -> list[str]:
        """As ClusterHandle has it."""
        table = self._table
        with self._alone():
            missing = [name for name in self._known(names) if table.find(name) is None]
            table.refuse_rivals(missing)
            for name in missing:
                with uninterrupted():
                    table.spawn(name)
            return missing

    def stop(self, names: Sequence[str] = (), *, patience: float = STOP_PATIENCE) -> list[str]:
        """As ClusterHandle has it."""
        with self._alone():
            return self._table.end(self._known(names), patience=patience)

    def kill(self, name: str) -> None:
        """As ClusterHandle has it: SIGKILL."""
        process = self.process(name)
        if process is not None:
            process.signal(signal.SIGKILL)
            end([process], patience=STOP_PATIENCE)

    def pause(self, name: str) -> None:
        """As ClusterHandle has it: SIGSTOP."""
        process = self.process(name)
        if process is None or not pause(process, patience=STOP_PATIENCE):
            raise NotRunning(f"{name} does not run")

    def resume(self, name: str) -> None:
        """As ClusterHandle has it: SIGCONT."""
        process = self.process(name)
        if process is not None:
            process.signal(signal.SIGCONT)

    def condition(self, name: str) -> Condition:
        """As ClusterHandle has it."""
        process = self.process(name)
        if process is None:
            return Condition.ENDED
        return Condition.PAUSED if process.paused else Condition.RUNNING

    # --- its files -------------------------------------------------------------------------------

    @property
    def files(self) -> Self:
        """The files of the processes are within reach."""
        return self

    def data_directory(self, name: str) -> Path | None:
        """As ProcessFiles has it."""
        path = self._table.described(name).data_directory
        return Path(path) if path else None

    def log_directory(self, name: str) -> Path | None:
        """As ProcessFiles has it."""
        process = self._table.described(name)
        path = process.log_directory if isinstance(process, MemberDescription) else ""
        return Path(path) if path else None

    def log_file(self, name: str) -> Path:
        """Where ``name`` writes its log."""
        return self._table.log_file(name)

    def log_text(self, name: str, *, last_bytes: int = LOG_TEXT_BYTES) -> str:
        """As ClusterHandle has it."""
        self._table.described(name)
        try:
            with self.log_file(name).open("rb") as log:
                log.seek(max(0, log.seek(0, SEEK_END) - last_bytes))
                return log.read(last_bytes).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _table(self) -> ProcessTable:
        return ProcessTable(self.directory, self.config, self.network)

    def _processes_here(self) -> ProcessesHere:
        return self

    def _known(self, names: Sequence[str]) -> list[str]:
        """``names``, or all if there are none.  Raises ConfigError for one that is unknown."""
        return [self._table.described(name).name for name in names or self.endpoints]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other `up` and `down` on this directory out."""
        try:
            lock = DirectoryLock(self.directory / RUN_DIRECTORY)
        except DataDirectoryInUse as error:
            raise ConfigError(
                f"another `sinfonia up` or `down` is at work on {self.directory}"
            ) from error
        try:
            yield
        finally:
            lock.release()


def _version_of(file: Path) -> tuple[int, int] | None:
    """What changes whenever a description is written, which replaces the file; None: it is gone."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
