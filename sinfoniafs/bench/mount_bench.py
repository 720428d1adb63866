"""What one program gets out of a mount: system calls a second, and whole trees, as JSON lines.

A private cluster of three memory nodes on this machine, mounted once.  Single-threaded: each figure
is the latency of one call, turned over.
"""

import functools
import json
import os
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from sinfoniafs.demo.stage import Interrupts, Stage

FILES = 300
FILE_BYTES = 4096
LARGE_BYTES = 128 * 1024 * 1024
PIECE = bytes(1024 * 1024)


def report(name: str, *, count: float, unit: str, seconds: float, minitransactions: int) -> None:
    """Print one figure."""
    figures = {
        "operation": name,
        "per_second": round(count / seconds, 1),
        "unit": unit,
        "minitransactions_each": round(minitransactions / count, 2),
    }
    click.echo(json.dumps(figures))


class Bench:
    """Measures on one mountpoint."""

    def __init__(self, stage: Stage, mountpoint: Path) -> None:
        self.stage = stage
        self.mountpoint = mountpoint

    def measure(self, name: str, work: Callable[[], object], count: float, unit: str) -> None:
        """Run ``work``, which does ``count`` of something."""
        before = self.stage.statistics(self.mountpoint)["executed"]
        began = time.monotonic()
        work()
        seconds = time.monotonic() - began
        spent = self.stage.statistics(self.mountpoint)["executed"] - before
        report(name, count=count, unit=unit, seconds=seconds, minitransactions=spent)

    def each(self, name: str, call: Callable[[str], object]) -> None:
        """Measure ``call`` on each of the files of one directory."""
        names = [str(self.mountpoint / "files" / f"{number}") for number in range(FILES)]
        self.measure(name, lambda: [call(each) for each in names], FILES, "calls")

    def small_files(self) -> None:
        """System calls on small files."""
        (self.mountpoint / "files").mkdir()
        self.each("create", lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)))
        self.each("stat", os.stat)
        self.each("open, write 4 KiB, close", lambda path: Path(path).write_bytes(PIECE[:4096]))
        self.each("open, read 4 KiB, close", lambda path: Path(path).read_bytes())
        self.each("chmod", lambda path: Path(path).chmod(0o600))
        self.each("rename", lambda path: Path(path).rename(f"{path}.new"))
        self.each("unlink", lambda path: Path(f"{path}.new").unlink())

    def large_file(self) -> None:
        """Sequential input and output of one large file."""
        path, megabytes = self.mountpoint / "large", LARGE_BYTES / 1e6

        def write() -> None:
            with path.open("wb", buffering=0) as file:
                for _ in range(LARGE_BYTES // len(PIECE)):
                    file.write(PIECE)

        def read() -> None:
            with path.open("rb", buffering=0) as file:
                while file.read(len(PIECE)):
                    pass

        self.measure("write sequentially", write, megabytes, "MB")
        self.measure("read sequentially", read, megabytes, "MB")

    def trees(self, archive: Path) -> None:
        """What tar, find and rm make of the standard library's sources."""
        root = self.mountpoint
        listed = subprocess.run(["tar", "-tf", archive], capture_output=True, check=True)
        count = listed.stdout.count(b"\n")
        for name, command in (
            ("tar x", ["tar", "-C", root, "-xf", archive]),
            ("find", ["find", root, "-type", "f"]),
            ("tar c", ["tar", "-C", root, "-cf", archive.with_suffix(".again"), "."]),
            ("rm -r", ["rm", "-r", root / "tree"]),
        ):
            run = functools.partial(subprocess.run, command, capture_output=True, check=True)
            self.measure(name, run, count, "entries")


def pack_sources(archive: Path) -> None:
    """The standard library's Python files, as an archive with one directory, ``tree``."""
    source = sysconfig.get_path("stdlib")
    rename = ["--transform", "s,^\\.,tree,", "--exclude=__pycache__", "--exclude=config-*"]
    subprocess.run(["tar", "-C", source, *rename, "-cf", archive, "."], check=True)


@click.command()
def main() -> None:
    """Measure, on a private cluster that is gone afterwards."""
    stage = Stage(Path(tempfile.mkdtemp(prefix="sinfonia-bench-")), Interrupts())
    try:
        stage.start_cluster()
        mountpoint = stage.mountpoints[0]
        mountpoint.mkdir()
        stage.sinfoniafs("mkfs", stage.cluster.directory)
        log_file = stage.log_file(mountpoint)
        stage.sinfoniafs("mount", stage.cluster.directory, mountpoint, "--log-file", log_file)
        archive = stage.directory / "sources.tar"
        pack_sources(archive)
        bench = Bench(stage, mountpoint)
        bench.small_files()
        bench.large_file()
        bench.trees(archive)
    finally:
        stage.strike()


if __name__ == "__main__":
    main()
