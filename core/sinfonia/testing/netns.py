"""Hosts for real processes on one machine: network namespaces on a bridge of their own.

What is cut is cut at the sender, whose frames to the receiver then go to a hardware address that
no host has.  So they are lost without a word, as in a network that fails, in one direction only.

A process belongs to the host whose namespace the thread that started it was in.  The test itself is
a host as well, while it is ``inside``.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

# The host on which tests and their clients are; it has the bridge.
TEST: Final = "test"

_BRIDGE = "bridge0"
_DEVICE = "eth0"
_NO_HOST = "02:00:00:00:00:fe"
_COMMAND_TIMEOUT = 10.0

# <linux/sched.h>; Python 3.11 knows neither the number nor the call.
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """Hosts by name, each with an address that only they can reach."""

    def __init__(self, hosts: Iterable[str], stack: ExitStack) -> None:
        """Make everything; ``stack`` ends it."""
        self._stack = stack
        self._cut: set[tuple[str, str]] = set()
        self.addresses = {name: f"10.0.0.{k}" for k, name in enumerate([TEST, *hosts], 1)}
        self._add_namespace(TEST)
        _ip(self._namespace(TEST), "link", "add", _BRIDGE, "type", "bridge")
        self._bring_up(TEST, _BRIDGE)
        for number, name in enumerate(hosts):
            self._add_namespace(name)
            port = f"port{number}"
            ends = ["type", "veth", "peer", "name", _DEVICE, "netns", self._namespace(name)]
            _ip(self._namespace(TEST), "link", "add", port, *ends)
            _ip(self._namespace(TEST), "link", "set", port, "master", _BRIDGE, "up")
            self._bring_up(name, _DEVICE)

    @contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """This thread, and the processes and threads that it starts, are on ``host``."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(Path("/run/netns", self._namespace(host)))
            try:
                yield
            finally:
                _set_namespace(own)
        finally:
            os.close(own)

    def cut(self, sender: str, receiver: str) -> None:
        """What ``sender`` sends to ``receiver`` is lost from now on."""
        self._cut.add((sender, receiver))
        entry = [self.addresses[receiver], "lladdr", _NO_HOST, "dev", _device(sender)]
        _ip(self._namespace(sender), "neighbour", "replace", *entry, "nud", "permanent")

    def heal(self) -> None:
        """Every host reaches every other."""
        while self._cut:
            sender, receiver = self._cut.pop()
            entry = [self.addresses[receiver], "dev", _device(sender)]
            _ip(self._namespace(sender), "neighbour", "delete", *entry)

    def _namespace(self, host: str) -> str:
        return f"sinfonia-{os.getpid()}-{host}"

    def _add_namespace(self, host: str) -> None:
        _run("ip", "netns", "add", self._namespace(host))
        # Links and addresses end with it.
        self._stack.callback(_run, "ip", "netns", "delete", self._namespace(host))

    def _bring_up(self, host: str, device: str) -> None:
        namespace = self._namespace(host)
        _ip(namespace, "address", "add", f"{self.addresses[host]}/24", "dev", device)
        _ip(namespace, "link", "set", device, "up")
        _ip(namespace, "link", "set", "lo", "up")


@contextmanager
def private_network(hosts: Iterable[str]) -> Iterator[Network]:
    """A network of these hosts and the test; the process that uses it must be root."""
    with ExitStack() as stack:
        yield Network(list(hosts), stack)


def missing_for_networks() -> str:
    """Why there can be no private network here; empty if there can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    probe = f"sinfonia-{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", probe)
        _run("ip", "netns", "delete", probe)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"there are no network namespaces here: {error}"
    return ""


def _device(host: str) -> str:
    return _BRIDGE if host == TEST else _DEVICE


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        _set_namespace(descriptor)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(namespace: str, *command: str) -> None:
    _run("ip", "-netns", namespace, *command)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_COMMAND_TIMEOUT)
