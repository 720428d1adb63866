"""A real etcd on loopback, of one or more members, each of which can be killed, paused, resumed."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from sinfonia.errors import ConfigError
from sinfonia.operating.local_cluster import LOOPBACK, free_ports
from sinfonia.operating.processes import uninterrupted

ETCD = "/usr/bin/etcd"

START_PATIENCE_S = 20.0
STOP_PATIENCE_S = 10.0
LOOK_EVERY_S = 0.05

# A tenth of etcd's own, so that a test sees a new leader soon.
HEARTBEAT_MS = 20
ELECTION_MS = 200


class Etcd:
    """One etcd; members are numbered from 0."""

    def __init__(self, directory: Path, members: int) -> None:
        ports = free_ports(2 * members)
        self.endpoints = [f"http://{LOOPBACK}:{port}" for port in ports[:members]]
        self._peers = [f"http://{LOOPBACK}:{port}" for port in ports[members:]]
        self._directory = directory
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *members: int) -> None:
        """Start these members, or all, and wait until they answer."""
        numbers = members or tuple(range(len(self.endpoints)))
        for number in numbers:
            with uninterrupted():
                self._running[number] = self._spawn(number)
        deadline = time.monotonic() + START_PATIENCE_S
        for number in numbers:
            while not self._answers(number):
                if time.monotonic() >= deadline:
                    raise ConfigError(f"etcd {number} does not answer")
                time.sleep(LOOK_EVERY_S)

    def kill(self, *members: int) -> None:
        """Kill these members, or all that run."""
        for number in members or tuple(self._running):
            process = self._running.pop(number)
            process.kill()
            process.wait(STOP_PATIENCE_S)

    def pid(self, member: int = 0) -> int:
        """The process of a member that runs."""
        return self._running[member].pid

    def pause(self) -> None:
        """All members stand still: they are connected to, and do not answer."""
        for process in self._running.values():
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """They go on."""
        for process in self._running.values():
            process.send_signal(signal.SIGCONT)

    def leader(self) -> int:
        """The member that leads; waits until there is one."""
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            for number in self._running:
                status = self._ask(number, "/v3/maintenance/status")
                if status and status.get("leader") == status["header"]["member_id"]:
                    return number
            time.sleep(LOOK_EVERY_S)
        raise AssertionError("etcd has no leader")

    def _spawn(self, number: int) -> "subprocess.Popen[bytes]":
        peers = ",".join(f"member{n}={peer}" for n, peer in enumerate(self._peers))
        options = {
            "name": f"member{number}",
            "data-dir": self._directory / f"member{number}",
            "listen-client-urls": self.endpoints[number],
            "advertise-client-urls": self.endpoints[number],
            "listen-peer-urls": self._peers[number],
            "initial-advertise-peer-urls": self._peers[number],
            "initial-cluster": peers,
            "heartbeat-interval": HEARTBEAT_MS,
            "election-timeout": ELECTION_MS,
            "log-level": "error",
        }
        with (self._directory / f"member{number}.log").open("ab") as log:
            return subprocess.Popen(
                [ETCD, *(f"--{name}={value}" for name, value in options.items())],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )

    def _answers(self, number: int) -> bool:
        """Whether the member takes part in a quorum: only then it reads."""
        return self._ask(number, "/v3/kv/range", {"key": "YQ=="}) is not None

    def _ask(self, number: int, path: str, body: object = None) -> dict[str, Any] | None:
        try:
            answer = httpx.post(
                self.endpoints[number] + path, json=body or {}, timeout=1.0, trust_env=False
            )
        except httpx.TransportError:
            return None
        found: dict[str, Any] = answer.json()
        return found if answer.is_success else None
