"""A cluster on this machine is a directory: what describes it, its data, its logs, who runs it.

::

    DIR/cluster.toml        the description that every process reads
    DIR/manager/ DIR/node0/ ...   data directories
    DIR/log/NAME.log        what each process printed
    DIR/run/NAME.pid        who it is; see processes.py

NAME is ``manager`` or ``node0``, ``node1``, ...  Starting starts what is not running, be it all
or one memory node that was killed; what a start began it also ends, should it fail.
"""

import contextlib
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.processes import ProcessIdentity, end, spawn_detached
from sinfonia.client.seed import ASK_EVERY, ask
from sinfonia.config import (
    CONFIG_FILE,
    ByteCount,
    ClusterConfig,
    ManagerEntry,
    MemoryNodeDescription,
    Times,
    config_file,
)
from sinfonia.errors import ConfigError, DataDirectoryInUse, SinfoniaError, Unreachable
from sinfonia.protocol.messages import GetStatus, Status
from sinfonia.storage.data_directory import DirectoryLock

MANAGER = "manager"
LOOPBACK = "127.0.0.1"

# A memory node that replays a long log takes its time; one that does not start says so and ends.
START_TIMEOUT = 60.0

# A process finishes its wake-up and lets go of its files; a checkpoint's write may take a while.
STOP_PATIENCE = 10.0

# How long one question to a process that is starting may take.
STATUS_TIMEOUT = 0.5

# What is quoted of the log of a process that did not start.
LOG_LINES = 5

# For clusters that need no known place: above the usual services, below the kernel's own choice.
PRIVATE_PORTS = range(20_000, 32_000)

OnServing = Callable[[str], None]


# How a process says on its log why it could not start, or go on.
ERROR_PREFIX = "Error: "

SERVING = "serving"


class StartFailed(SinfoniaError):
    """A process of the cluster did not start; the message quotes its log."""


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
        times: Times | None = None,
    ) -> Self:
        """Describe a new cluster in ``directory``, the manager on the first of ``ports``.

        Raises ConfigError or StartFailed, and then nothing was made: there is something else in
        ``directory``, or on a port.
        """
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(f"{directory} is not empty and holds no cluster; choose another")
        if len(ports) != memory_nodes + 1 or not all(0 < port < 65_536 for port in ports):
            raise ConfigError(f"ports {min(ports)}-{max(ports)} do not exist; they end at 65535")
        endpoints = [f"tcp://{LOOPBACK}:{port}" for port in ports]
        for endpoint in endpoints:
            _refuse_taken(endpoint)
        config = ClusterConfig(
            cluster=directory.resolve().name,
            manager=ManagerEntry(endpoint=endpoints[0], data_directory=MANAGER),
            memory_node=[
                MemoryNodeDescription(
                    node=MemoryNodeId(node),
                    endpoint=endpoints[node + 1],
                    capacity=ByteCount(capacity),
                    mode="RAM" if mode == "RAM" else "LOG",
                    data_directory=f"node{node}",
                )
                for node in range(memory_nodes)
            ],
            times=times or Times(),
        )
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / CONFIG_FILE).write_text(config.to_toml(directory), "utf-8")
        except OSError as error:
            raise ConfigError(f"cannot make {directory}: {error.strerror}") from error
        return cls(directory)

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return self.config.manager.endpoint

    @property
    def endpoints(self) -> dict[str, str]:
        """Of each process by name, the manager first."""
        nodes = {f"node{node.node}": node.endpoint for node in self.config.memory_node}
        return {MANAGER: self.endpoint, **nodes}

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
        on_serving: OnServing | None = None,
    ) -> list[str]:
        """Start ``names`` (default: all) as far as they do not run, and wait until they serve.

        Returns what was started.  Raises StartFailed, and then nothing is left that this started.
        """
        with self._alone():
            started: dict[str, ProcessIdentity] = {}
            try:
                for name in names or self.endpoints:
                    if self.process(name) is None:
                        _refuse_taken(self.endpoints[name])
                        started[name] = self._start(name)
                self._wait_until_serving(dict(started), time.monotonic() + timeout, on_serving)
            except BaseException:
                end(list(started.values()), patience=STOP_PATIENCE)
                for name in started:
                    self._pid_file(name).unlink(missing_ok=True)
                raise
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
        return self.directory / "run" / f"{name}.pid"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other `up` and `down` on this directory out."""
        try:
            lock = DirectoryLock(self.directory / "run")
        except DataDirectoryInUse as error:
            raise ConfigError(
                f"another `sinfonia up` or `down` is at work on {self.directory}"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _start(self, name: str) -> ProcessIdentity:
        command = ["-m", "sinfonia.cli.main"]
        config = ["--config", str(self.directory / CONFIG_FILE)]
        if name == MANAGER:
            command += ["manager", *config]
        else:
            command += ["memnode", *config, "--node", name.removeprefix("node")]
        log_file = self.log_file(name)
        log_file.parent.mkdir(exist_ok=True)
        process = spawn_detached(command, log_file=log_file)
        process.write(self._pid_file(name))
        return process

    def _wait_until_serving(
        self,
        started: dict[str, ProcessIdentity],
        deadline: float,
        on_serving: OnServing | None,
    ) -> None:
        waiting = list(started)
        while waiting:
            for name in list(waiting):
                if not started[name].running:
                    raise StartFailed(f"{name} did not start: {self._last_words(name)}")
                if _serves(self.endpoints[name]):
                    waiting.remove(name)
                    if on_serving is not None:
                        on_serving(name)
            if waiting and time.monotonic() >= deadline:
                name = waiting[0]
                raise StartFailed(f"{name} does not serve yet: {self._last_words(name)}")
            time.sleep(ASK_EVERY)

    def _last_words(self, name: str) -> str:
        log_file = self.log_file(name)
        lines = log_file.read_text("utf-8", "replace").splitlines()
        if lines and lines[-1].startswith(ERROR_PREFIX):
            return lines[-1].removeprefix(ERROR_PREFIX)
        return f"{log_file} ends with\n  " + "\n  ".join(lines[-LOG_LINES:])


def _serves(endpoint: str) -> bool:
    try:
        status = ask(endpoint, GetStatus(), Status, timeout=STATUS_TIMEOUT)
    except Unreachable:
        return False
    return isinstance(status, Status) and status.state == SERVING


def _refuse_taken(endpoint: str) -> None:
    """Raise StartFailed if someone listens at ``endpoint``.

    The process would say so itself, but only after its rival had answered in its place.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise StartFailed(
                f"{endpoint} is in use by another process; stop that one, or choose other ports: "
                f"for a new cluster with --port, else in {CONFIG_FILE}"
            ) from error


def free_ports(number: int) -> list[int]:
    """Ports of loopback on which nobody listens."""
    # Not from the range that the kernel gives to connections: they would be taken at any time.
    found: list[int] = []
    for port in random.sample(PRIVATE_PORTS, len(PRIVATE_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            found.append(port)
        if len(found) == number:
            return found
    raise ConfigError(f"there are no {number} free ports on {LOOPBACK}")
