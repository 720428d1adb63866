"""A process is known by its pid and its start time, never by its name.

A pid is used again after a while, so a pid file holds both, and a signal is sent only while both
still hold.  So no process is ever killed that was not started here.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# How often the state of a process that was sent a signal is looked at.
LOOK_EVERY = 0.02

# The field of /proc/PID/stat behind the name, counted from it: state, ..., start time in ticks.
_STATE = 0
_START_TIME = 19

# States of a process that has ended.  Two are not the kernel's: nothing is left of the process, and
# not all of its threads have ended yet.
_GONE = "-"
_ENDING = "z"
_ENDED = {"Z", "X", _GONE}

# The state of a process that a signal has stopped.
_STOPPED = "T"


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of this machine, since it was last started."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has ``pid`` now; None if there is none, or only its remains."""
        state, start_time = _look_up(pid)
        return None if state in _ENDED else cls(pid, start_time)

    @classmethod
    def read(cls, pid_file: Path) -> Self | None:
        """The process named in ``pid_file``; None if it no longer runs."""
        try:
            pid, start_time = map(int, pid_file.read_text("ascii").split())
        except (FileNotFoundError, ValueError):
            return None
        identity = cls(pid, start_time)
        return identity if identity.running else None

    def write(self, pid_file: Path) -> None:
        """Remember this process."""
        pid_file.write_text(f"{self.pid} {self.start_time}\n", "ascii")

    @property
    def running(self) -> bool:
        """Whether the process still runs, and is the same."""
        state, start_time = _look_up(self.pid)
        if start_time != self.start_time:
            return False
        if state in _ENDED:
            self._reap()
            return False
        return True

    @property
    def paused(self) -> bool:
        """Whether the process stands still because a signal stopped it."""
        state, start_time = _look_up(self.pid)
        return start_time == self.start_time and state == _STOPPED

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process no longer runs."""
        try:
            # A descriptor stays with its process even if the pid is used again after the look.
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.running:
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass  # the process ended in between
        finally:
            os.close(descriptor)

    def _reap(self) -> None:
        """Let the kernel forget the process, if it was our child."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def _look_up(pid: int) -> tuple[str, int]:
    """State and start time of the process that has ``pid`` now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return _GONE, -1
    # The name stands in parentheses and may hold anything, parentheses too.
    fields = stat.rpartition(")")[2].split()
    # The first thread is a zombie while others still end, and hold files and ports.
    state = _ENDING if threads > 1 and fields[_STATE] == "Z" else fields[_STATE]
    return state, int(fields[_START_TIME])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block ends.

    The block can then also note what it starts, so that an interrupted program can end that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled elsewhere
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for held_back in came[:1]:
            signal.raise_signal(held_back)


def spawn_detached(arguments: Sequence[str], *, log_file: Path) -> ProcessIdentity:
    """Start ``python ARGUMENTS`` in a session of its own; what it prints is added to
    ``log_file``."""
    # -P: a folder of the working directory must not pass for one of our packages.
    command = [sys.executable, "-P", *arguments]
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_file), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    # The kernel keeps the entry of a child until its parent waits for it, alive or not.
    return ProcessIdentity(pid, _look_up(pid)[1])


def end(processes: Sequence[ProcessIdentity], *, patience: float) -> list[ProcessIdentity]:
    """Ask processes to end, and kill those that still run after ``patience`` seconds.

    Returns those that were killed.
    """
    for process in processes:
        process.signal(signal.SIGTERM)
    remaining = _wait(processes, patience)
    for process in remaining:
        process.signal(signal.SIGKILL)
    stuck = _wait(remaining, patience)
    if stuck:
        raise TimeoutError(f"process {stuck[0].pid} does not end, not even by SIGKILL")
    return remaining


def pause(process: ProcessIdentity, *, patience: float) -> bool:
    """Stop a process, and wait until it stands still; False if it ended first.

    A process in a system call stops when the call ends.  Raises TimeoutError after ``patience``
    seconds.
    """
    process.signal(signal.SIGSTOP)
    deadline = time.monotonic() + patience
    while process.running:
        if process.paused:
            return True
        if time.monotonic() >= deadline:
            raise TimeoutError(f"process {process.pid} does not stop, not even by SIGSTOP")
        time.sleep(LOOK_EVERY)
    return False


def _wait(processes: Sequence[ProcessIdentity], patience: float) -> list[ProcessIdentity]:
    """Those that still run after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while running := [process for process in processes if process.running]:
        if time.monotonic() >= deadline:
            return running
        time.sleep(LOOK_EVERY)
    return []
