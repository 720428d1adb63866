"""The processes of one cluster directory by name: how each is started, found, and what it logged.

A process is found by its pid file (processes.py), and started on its host, where hosts are kept
apart (handle.py: HostNetwork).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from sinfonia.cluster_keys import operator_keys
from sinfonia.config import CONFIG_FILE, ClusterConfig, ProcessDescription
from sinfonia.endpoints import host_of
from sinfonia.errors import ConfigError
from sinfonia.operating.handle import HostNetwork, ProcessPlace
from sinfonia.operating.processes import ProcessIdentity, end, spawn_detached
from sinfonia.operating.rivals import refuse_rivals
from sinfonia.transport.keygen import ensure_member_keys

RUN_DIRECTORY = "run"
LOG_DIRECTORY = "log"

# What is quoted of the log of a process that did not start.
LOG_LINES = 5

# How a process says on its log why it could not start, or go on.
ERROR_PREFIX = "Error: "


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """The processes that ``config`` describes, with their files in ``directory``."""

    directory: Path
    config: ClusterConfig
    network: HostNetwork | None

    def places(self) -> list[ProcessPlace]:
        """All processes, the managers first."""
        nodes = self.config.memory_node
        members = {member.name: node.node for node in nodes for member in node.members}
        return [
            ProcessPlace(each.name, each.endpoint, self._host(each), members.get(each.name))
            for each in self.config.processes
        ]

    def described(self, name: str) -> ProcessDescription:
        """The description of ``name``.  Raises ConfigError if there is none."""
        for process in self.config.processes:
            if process.name == name:
                return process
        known = ", ".join(process.name for process in self.config.processes)
        raise ConfigError(f"there is no process {name!r} here; there are {known}")

    def find(self, name: str) -> ProcessIdentity | None:
        """The process ``name``, if it runs."""
        return ProcessIdentity.read(self._pid_file(name))

    @property
    def running(self) -> dict[str, ProcessIdentity]:
        """The processes that run, by name."""
        found = {process.name: self.find(process.name) for process in self.config.processes}
        return {name: process for name, process in found.items() if process is not None}

    def spawn(self, name: str) -> ProcessIdentity:
        """Start the process ``name`` on its host."""
        if self.config.security.keys:
            ensure_member_keys(Path(self.config.security.keys), name)
        command = ["-m", "sinfonia.cli.main", *self._command(name)]
        log_file = self.log_file(name)
        log_file.parent.mkdir(exist_ok=True)
        with self._on_host_of(name):
            process = spawn_detached(command, log_file=log_file)
        process.write(self._pid_file(name))
        return process

    def end(self, names: Sequence[str], *, patience: float) -> list[str]:
        """End ``names`` as far as they run; returns those that were killed."""
        running = {name: process for name in names if (process := self.find(name)) is not None}
        killed = end(list(running.values()), patience=patience)
        for name in names:
            self.forget(name)
        return [name for name, process in running.items() if process in killed]

    def forget(self, name: str) -> None:
        """Remove what says that the process ``name``, which has ended, runs."""
        self._pid_file(name).unlink(missing_ok=True)

    def refuse_rivals(self, names: Sequence[str]) -> None:
        """Raise StartFailed if another process holds the port of one of ``names``."""
        keys = operator_keys(self.config)
        for name in names:
            with self._on_host_of(name):
                refuse_rivals([self.described(name).endpoint], self.config.cluster, keys)

    def log_file(self, name: str) -> Path:
        """Where ``name`` writes its log."""
        return self.directory / LOG_DIRECTORY / f"{name}.log"

    def last_words(self, name: str) -> str:
        """What the log of a process that has ended says of why."""
        log_file = self.log_file(name)
        lines = log_file.read_text("utf-8", "replace").splitlines()
        if lines and lines[-1].startswith(ERROR_PREFIX):
            return lines[-1].removeprefix(ERROR_PREFIX)
        return f"{log_file} ends with\n  " + "\n  ".join(lines[-LOG_LINES:])

    def _pid_file(self, name: str) -> Path:
        return self.directory / RUN_DIRECTORY / f"{name}.pid"

    def _host(self, process: ProcessDescription) -> str:
        """Hosts that are kept apart are named for their processes; others are in the endpoints."""
        return host_of(process.endpoint) if self.network is None else process.name

    def _on_host_of(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.network is None else self.network.inside(name)

    def _command(self, name: str) -> list[str]:
        """The arguments with which `sinfonia` runs the process ``name``."""
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
