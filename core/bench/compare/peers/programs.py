"""Other people's servers, started on loopback for one benchmark and gone with it.

A server runs in a session of its own, so that Ctrl-C reaches only the benchmark, which then ends
it.  It belongs to the user who measures and needs no rights.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sinfonia.errors import ConfigError
from sinfonia.operating.processes import uninterrupted

START_PATIENCE = 20.0
STOP_PATIENCE = 10.0
LOOK_EVERY = 0.02

# The Debian package of each program that is run.
PACKAGES = {
    "redis-server": "redis-server",
    "redis-benchmark": "redis-tools",
    "redis-cli": "redis-tools",
    "etcd": "etcd-server",
}

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# Fields of /proc/PID/stat behind the name, which stands in parentheses and may hold anything.
_USER_TIME = 11
_SYSTEM_TIME = 12


def find_programs(*names: str) -> list[str]:
    """The paths of ``names``.  Raises ConfigError that says what to install."""
    # Debian puts servers where an ordinary user's PATH may not look.
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = {name: shutil.which(name, path=places) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        raise ConfigError(
            f"this needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            f"not installed: apt-get install {packages}"
        )
    return [path for path in found.values() if path is not None]


@contextmanager
def running(command: Sequence[str], *, log_file: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """``command``, until the block ends; what it prints is added to ``log_file``."""
    process: subprocess.Popen[bytes] | None = None
    try:
        with uninterrupted(), log_file.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        yield process
    finally:
        if process is not None:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_PATIENCE)


def wait_until(
    answers: Callable[[], bool], process: "subprocess.Popen[bytes]", log_file: Path
) -> None:
    """Wait until a server that was started ``answers``.  Raises ConfigError if it does not."""
    deadline = time.monotonic() + START_PATIENCE
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            words = log_file.read_text("utf-8", "replace").strip().splitlines()
            last = words[-1] if words else "it said nothing"
            raise ConfigError(f"{Path(str(process.args[0])).name} did not start: {last}")  # type: ignore[index]  # ours is a list
        time.sleep(LOOK_EVERY)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, to within a clock tick."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """Memory that a process has (RSS)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
