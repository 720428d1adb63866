"""A real process whose disk is slow: `python -m bench.slow_disk FILE memnode ...`.

It is `sinfonia memnode ...`, but each sync of the redo log takes as many seconds longer as FILE
says at that moment.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sinfonia.cli.main import main
from sinfonia.config import CONFIG_FILE
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.storage.files import TimedFile

STOP_PATIENCE = 10.0


class SlowDisk(Protocol):
    """Sets by how many seconds each sync takes longer."""

    def __call__(self, seconds: float) -> None: ...


@contextmanager
def replica_with_slow_disk(cluster: LocalCluster, replica: str) -> Iterator[SlowDisk]:
    """``replica``, the only one of memory node 0, as such a process; its disk is fast at first."""
    cluster.stop([replica])
    delay = cluster.directory / "delay"

    def set_delay(seconds: float) -> None:
        new = delay.with_suffix(".new")
        new.write_text(str(seconds), "utf-8")
        new.replace(delay)

    set_delay(0.0)
    command = [sys.executable, "-m", "bench.slow_disk", str(delay), "memnode"]
    config = str(cluster.directory / CONFIG_FILE)
    with cluster.log_file(replica).open("a") as log:
        process = subprocess.Popen(
            [*command, "--config", config, "--node", "0", "--replica", "1"], stdout=log, stderr=log
        )
    try:
        yield set_delay
    finally:
        set_delay(0.0)
        process.terminate()
        try:
            process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _slow_syncs(delay: Path) -> None:
    sync = TimedFile.sync

    def slow(self: TimedFile) -> None:
        time.sleep(float(delay.read_text("utf-8")))
        sync(self)

    TimedFile.sync = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    _slow_syncs(Path(sys.argv[1]))
    main(sys.argv[2:])
