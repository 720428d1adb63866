"""What a demonstration has set up, and what ends with it: processes, mounts, a directory.

Whatever is interrupted where, ``strike`` finds what there is by looking, not by remembering.
"""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from sinfonia.errors import SinfoniaError
from sinfonia.operating.local_cluster import LocalCluster, free_ports
from sinfoniafs import mounts
from sinfoniafs.mounts import MountError

MEMORY_NODES = 3
NODE_CAPACITY = 1024 * 1024 * 1024

# Any command of the demonstration takes a few seconds at most.
COMMAND_SECONDS_MAX = 60.0
ENDING_SECONDS_MAX = 20.0
STATISTICS_SECONDS_MAX = 10.0
LOOK_EVERY_SECONDS = 0.05


class DemoFailed(Exception):
    """Something that was to be shown is not so."""


class Interrupts:
    """Signals that end the demonstration, once; the cleaning up that follows is left in peace.

    A signal never comes between starting something and knowing that it was started.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._seen = False

    def catch(self) -> None:
        """From now on, raise KeyboardInterrupt where the signal meets the program."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the signal wait for the end of the context."""
        seen_before = self._seen
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            if self._seen and not seen_before:
                raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        first, self._seen = not self._seen, True
        if first and not self._deferring:
            raise KeyboardInterrupt


class Stage:
    """A cluster directory, two mountpoints, and the commands to use them."""

    def __init__(self, directory: Path, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self.directory = directory.resolve()
        self.cluster = LocalCluster.create(
            self.directory / "cluster",
            memory_nodes=MEMORY_NODES,
            mode="LOG",
            capacity=NODE_CAPACITY,
            ports=free_ports(MEMORY_NODES + 1),
        )
        self.mountpoints = (self.directory / "mount-a", self.directory / "mount-b")

    def start_cluster(self) -> None:
        """Bring up all processes."""
        with self._interrupts.deferred():
            self.cluster.start()

    def sinfoniafs(self, *arguments: str | Path) -> str:
        """Run the command as a user would; returns what it prints.  Raises DemoFailed."""
        command = [sys.executable, "-P", "-m", "sinfoniafs", *map(str, arguments)]
        running = None
        try:
            with self._interrupts.deferred():
                running = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            output, complaints = running.communicate(timeout=COMMAND_SECONDS_MAX)
        except BaseException:
            if running is not None:
                # Asked, not killed, so that it ends what it has started itself.
                running.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.communicate(timeout=ENDING_SECONDS_MAX)
                running.kill()
                running.communicate()
            raise
        if running.returncode != 0:
            raise DemoFailed(f"sinfoniafs {arguments[0]}: {complaints.strip() or output.strip()}")
        return output

    def log_file(self, mountpoint: Path) -> Path:
        """Where the process behind a mount writes."""
        return self.cluster.directory / "log" / f"{mountpoint.name}.log"

    def statistics(self, mountpoint: Path) -> dict[str, int]:
        """The counts of the client behind a mount, which tells them when asked by a signal."""
        record = mounts.read_record(mountpoint)
        if record is None:
            raise DemoFailed(f"no mount serves {mountpoint}")
        log_file = self.log_file(mountpoint)
        read_to = log_file.stat().st_size
        record.process.signal(signal.SIGUSR1)
        deadline = time.monotonic() + STATISTICS_SECONDS_MAX
        while time.monotonic() < deadline:
            news = log_file.read_bytes()[read_to:].decode(errors="replace")
            found = re.search(r"statistics (.*)\n", news)
            if found:
                return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", found[1])}
            time.sleep(LOOK_EVERY_SECONDS)
        raise DemoFailed(f"the mount at {mountpoint} does not answer")

    def strike(self) -> None:
        """End everything and remove the directory."""
        for mountpoint in self.mountpoints:
            if mounts.mount_at(mountpoint) is not None:
                record = mounts.read_record(mountpoint)
                with contextlib.suppress(MountError):
                    mounts.unmount(mountpoint, force=True)
                if record is not None:
                    record.process.signal(signal.SIGKILL)
        self.cluster.stop()
        shutil.rmtree(self.directory)


class Surgery:
    """Kills one memory node and starts it anew, once ``count`` was called often enough.

    In a thread, so that others go on (or have to wait) meanwhile; leaving the context waits for it
    and raises what went wrong in it.
    """

    def __init__(
        self, cluster: LocalCluster, victim: str, *, after: int, dead_seconds: float
    ) -> None:
        self._cluster = cluster
        self._victim = victim
        self._after = after
        self._dead_seconds = dead_seconds
        self._counted = 0
        self._thread = threading.Thread(target=self._operate)
        self._error: Exception | None = None
        self.seconds = 0.0

    def count(self) -> None:
        """One more; the operation begins when it is enough."""
        self._counted += 1
        if self._counted == self._after:
            self._thread.start()

    def _operate(self) -> None:
        killed_at = time.monotonic()
        try:
            self._cluster.kill(self._victim)
            time.sleep(self._dead_seconds)
            self._cluster.start([self._victim])
        except (SinfoniaError, OSError) as error:  # for the thread that waits for this one
            self._error = error
        self.seconds = time.monotonic() - killed_at

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
