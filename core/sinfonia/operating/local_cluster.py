"""A cluster on this machine is a directory: what describes it, its data, its logs, who runs it.

::

    DIR/cluster.toml        the description that every process reads
    DIR/manager/ DIR/node0/ ...   data directories
    DIR/keys/               who may connect, if it was made with keys; see keys.py
    DIR/log/NAME.log        what each process printed
    DIR/run/NAME.pid        who it is; see processes.py

NAME is ``manager`` (or ``manager0``, ``manager1``, ...), ``node0``, ``node1``, ... and for replicas
``node0r1``, ...  Starting starts what is not running, be it all or one process that was killed;
what a start began it also ends, should it fail, unless it is to go on without those that refuse.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from sinfonia.client.seed import ASK_EVERY
from sinfonia.cluster_keys import operator_keys
from sinfonia.config import (
    CONFIG_FILE,
    ClusterConfig,
    ProcessDescription,
    SecurityDescription,
    Times,
    as_mode,
    config_file,
)
from sinfonia.errors import ConfigError, DataDirectoryInUse
from sinfonia.memnode.settings import has_disk
from sinfonia.operating.local_description import (
    LOOPBACK,
    StartFailed,
    free_ports,
    new_cluster,
    refuse_taken,
    with_metrics,
    write_description,
)
from sinfonia.operating.observer import Observer, Sight
from sinfonia.operating.processes import ProcessIdentity, end, spawn_detached, uninterrupted
from sinfonia.operating.rivals import refuse_rivals
from sinfonia.protocol.membership.messages import Directory
from sinfonia.storage.data_directory import IDENTITY_FILE, DirectoryLock
from sinfonia.transport.keygen import ensure_member_keys, make_cluster_keys

__all__ = ["LOOPBACK", "LocalCluster", "StartFailed", "free_ports"]

# A memory node that replays a long log takes its time; one that does not start says so and ends.
START_TIMEOUT = 60.0

# A process finishes its wake-up and lets go of its files; a checkpoint's write may take a while.
STOP_PATIENCE = 10.0

# After one has refused to start the others are waited for so long: some may never serve without it,
# and a replica in its place does after a fail-over.
OTHERS_PATIENCE = 20.0

# How long one question to processes that are starting may take.
STATUS_TIMEOUT = 0.5

# What is quoted of the log of a process that did not start.
LOG_LINES = 5

OnServing = Callable[[str], None]
OnSight = Callable[[Sight], None]

# How a process says on its log why it could not start, or go on.
ERROR_PREFIX = "Error: "

KEYS = "keys"
RUN_DIRECTORY = "run"

SERVING = "serving"
FOLLOWING = "following"
CATCHING_UP = "catching up"


class LocalCluster:
    """The processes of one cluster directory.  It holds no state: that is in the directory."""

    def __init__(self, directory: Path) -> None:
        """The cluster in ``directory``.  Raises ConfigError if there is none."""
        self.config = ClusterConfig.load(config_file(directory))
        self.directory = directory.resolve()

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

        ``secure``: make keys for it in ``directory``, without which nobody may connect.
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

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return self.config.endpoint

    @property
    def endpoints(self) -> dict[str, str]:
        """Of each process by name, the managers first."""
        return {process.name: process.endpoint for process in self.config.processes}

    def change(self, config: ClusterConfig) -> None:
        """Describe the cluster anew; what runs goes on as it is.  Raises ConfigError."""
        for process in config.processes:
            if process.endpoint not in self.endpoints.values():
                refuse_taken(process.endpoint)
        write_description(config, self.directory)
        self.config = ClusterConfig.load(self.directory / CONFIG_FILE)

    def process(self, name: str) -> ProcessIdentity | None:
        """The running process ``name``, if it runs."""
        return ProcessIdentity.read(self._pid_file(name))

    @property
    def running(self) -> dict[str, ProcessIdentity]:
        """The processes that run, by name."""
        found = {name: self.process(name) for name in self.endpoints}
        return {name: process for name, process in found.items() if process is not None}

    def log_file(self, name: str) -> Path:
        """Where ``name`` writes its log."""
        return self.directory / "log" / f"{name}.log"

    def start(
        self,
        names: Sequence[str] = (),
        *,
        timeout: float = START_TIMEOUT,
        on_serving: OnServing = lambda _: None,
        on_sight: OnSight = lambda _: None,
        go_on: bool = False,
    ) -> list[str]:
        """Start ``names`` (default: all) as far as they do not run, and wait until they serve.

        ``on_serving`` is called for each that does, ``on_sight`` with every look.  Returns what was
        started.  Raises StartFailed, and then nothing is left that this started; with ``go_on``,
        what can be started is left running when a process refuses to start, or does not serve.
        """
        with self._alone():
            self._refuse_rivals(names or list(self.endpoints))
            started: dict[str, ProcessIdentity] = {}
            failed: dict[str, str] = {}
            try:
                for wave in self._waves(names or list(self.endpoints)):
                    failed |= self._too_early(wave, failed)
                    for name in wave:
                        if name not in failed:
                            with uninterrupted():
                                started[name] = self._start(name)
                    waiting = {name: started[name] for name in wave if name in started}
                    failed |= self._wait_until_ready(
                        waiting, timeout, on_serving, on_sight, go_on=go_on
                    )
                    if not go_on:
                        _refuse_any(failed)
            except BaseException:
                end(list(started.values()), patience=STOP_PATIENCE)
                for name in started:
                    self._pid_file(name).unlink(missing_ok=True)
                raise
            if failed:
                raise StartFailed(self._what_failed(failed))
            return list(started)

    def stop(self, names: Sequence[str] = (), *, patience: float = STOP_PATIENCE) -> list[str]:
        """End ``names`` (default: all).  Returns those that had to be killed."""
        with self._alone():
            running = {name: self.process(name) for name in names or self.endpoints}
            processes = [process for process in running.values() if process is not None]
            killed = end(processes, patience=patience)
            for name in running:
                self._pid_file(name).unlink(missing_ok=True)
            return [name for name, process in running.items() if process in killed]

    def kill(self, name: str) -> None:
        """SIGKILL the process ``name`` and wait until it is gone."""
        process = self.process(name)
        if process is not None:
            process.signal(signal.SIGKILL)
            end([process], patience=STOP_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _pid_file(self, name: str) -> Path:
        return self.directory / RUN_DIRECTORY / f"{name}.pid"

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

    def _refuse_rivals(self, names: Sequence[str]) -> None:
        """Raise StartFailed if another process holds the port of one that is to start."""
        missing = [self.endpoints[name] for name in names if self.process(name) is None]
        refuse_rivals(missing, self.config.cluster, operator_keys(self.config))

    def _waves(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Those of ``names`` that do not run, in the order in which to start them.

        A replica that never lived comes when all else serves: else it might come before the first
        member of a memory node that never lived either, and be its primary.
        """
        missing = [name for name in names if self.process(name) is None]
        replicas = [replica for node in self.config.memory_node for replica in node.replica]
        new = {each.name for each in replicas if not _has_lived(each)}
        yield [name for name in missing if name not in new]
        yield [name for name in missing if name in new]

    def _start(self, name: str) -> ProcessIdentity:
        if self.config.security.keys:
            ensure_member_keys(Path(self.config.security.keys), name)
        command = ["-m", "sinfonia.cli.main", *self._command(name)]
        log_file = self.log_file(name)
        log_file.parent.mkdir(exist_ok=True)
        process = spawn_detached(command, log_file=log_file)
        process.write(self._pid_file(name))
        return process

    def _command(self, name: str) -> list[str]:
        """What `sinfonia` is to do as the process ``name``."""
        config = ["--config", str(self.directory / CONFIG_FILE)]
        for number, manager in enumerate(self.config.manager):
            if manager.name == name:
                several = len(self.config.manager) > 1
                return ["manager", *config, *(["--number", str(number)] if several else [])]
        for node in self.config.memory_node:
            for position, member in enumerate(node.members):
                if member.name == name:
                    replica = ["--replica", str(position)] if position else []
                    return ["memnode", *config, "--node", str(node.node), *replica]
        raise ConfigError(f"cluster {self.config.cluster!r} has no process {name!r}")

    def _too_early(self, wave: Sequence[str], failed: Mapping[str, str]) -> dict[str, str]:
        """Replicas that never lived may not be the first members of their memory nodes to come."""
        return {
            name: f"{name} was not started: it has no data, and {first.name} must come first"
            for first, *others in (node.members for node in self.config.memory_node)
            for name in (each.name for each in others)
            if name in wave and first.name in failed
        }

    def _wait_until_ready(
        self,
        started: dict[str, ProcessIdentity],
        timeout: float,
        on_serving: OnServing,
        on_sight: OnSight,
        *,
        go_on: bool,
    ) -> dict[str, str]:
        """Until all of ``started`` serve, or are in sync; what to say of those that do not.

        Unless it is to ``go_on``, until one of them has ended.
        """
        waiting = list(started)
        failed: dict[str, str] = {}
        got_on: dict[str, tuple[object, ...]] = {}
        deadline = time.monotonic() + timeout
        places = [self.endpoints[name] for name in self.running] if waiting else []
        with Observer(places, operator_keys(self.config), follow=False) as observer:
            while waiting:
                for name in [name for name in waiting if not started[name].running]:
                    waiting.remove(name)
                    self._pid_file(name).unlink(missing_ok=True)
                    failed[name] = f"{name} did not start: {self.last_words(name)}"
                    deadline = min(deadline, time.monotonic() + OTHERS_PATIENCE)
                if failed and not go_on:
                    return failed
                sight = observer.look(STATUS_TIMEOUT)
                on_sight(sight)
                for name in list(waiting):
                    if is_ready(sight, self.endpoints[name]):
                        waiting.remove(name)
                        on_serving(name)
                gets_on = {name: _progress(sight, self.endpoints[name]) for name in waiting}
                if gets_on != got_on and not failed:
                    # As long as a copy grows, however much there is to copy.
                    got_on, deadline = gets_on, time.monotonic() + timeout
                elif time.monotonic() >= deadline:
                    break
                time.sleep(ASK_EVERY)
        late = {name: f"{name} does not serve yet: {self.last_words(name)}" for name in waiting}
        return failed | late

    def _what_failed(self, failed: Mapping[str, str]) -> str:
        """What is wrong with each, what to do, and what runs all the same."""
        lines = [said + self._advice(name) for name, said in failed.items()]
        runs = [name for name in self.running if name not in failed]
        return "\n".join([*lines, f"Running: {', '.join(runs) or 'nothing'}."])

    def _advice(self, name: str) -> str:
        """How to go on without the data of a member that has ended."""
        for node in self.config.memory_node:
            if name not in {member.name for member in node.members} or not has_disk(node.mode):
                continue
            if self.process(name) is not None or not _has_lived(self._described(name)):
                continue
            if node.replica:
                return (
                    f"\n  If its data cannot be mended: `sinfonia replica remove {self.directory} "
                    f"{node.node} {name}`, and then `sinfonia replica add {self.directory} "
                    f"{node.node}` makes another copy."
                )
            return (
                "\n  It is the only copy: if it cannot be mended, `sinfonia restore` makes a "
                "cluster from a backup."
            )
        return ""

    def _described(self, name: str) -> ProcessDescription:
        return next(each for each in self.config.processes if each.name == name)

    def last_words(self, name: str) -> str:
        """What the log of a process that has ended says of why."""
        log_file = self.log_file(name)
        lines = log_file.read_text("utf-8", "replace").splitlines()
        if lines and lines[-1].startswith(ERROR_PREFIX):
            return lines[-1].removeprefix(ERROR_PREFIX)
        return f"{log_file} ends with\n  " + "\n  ".join(lines[-LOG_LINES:])


def _refuse_any(failed: Mapping[str, str]) -> None:
    for said in failed.values():
        raise StartFailed(said)


def is_ready(sight: Sight, endpoint: str) -> bool:
    """Whether the process at ``endpoint`` serves, or follows in sync."""
    state = _state(sight, endpoint)
    return state == SERVING or (state == FOLLOWING and is_in_sync(sight.directory, endpoint))


def is_in_sync(directory: Directory | None, endpoint: str) -> bool:
    """Whether the replica at ``endpoint`` may become primary."""
    return directory is not None and any(
        member.in_sync
        for entry in directory.nodes
        for member in entry.replicas
        if member.endpoint == endpoint
    )


def _state(sight: Sight, endpoint: str) -> str:
    status = sight.statuses.get(endpoint)
    return "" if status is None else status.state


def _progress(sight: Sight, endpoint: str) -> tuple[object, ...]:
    """What grows while the process at ``endpoint`` catches up; the same in any other state."""
    status = sight.statuses.get(endpoint)
    if status is None or status.state != CATCHING_UP:
        return ()
    return tuple(status.figures.get(each) for each in ("copied_bytes", "last_record"))


def _has_lived(process: ProcessDescription) -> bool:
    return (Path(process.data_directory) / IDENTITY_FILE).exists()
