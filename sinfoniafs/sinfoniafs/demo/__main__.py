"""A cluster file system on this machine, shown from nothing to the figures.

Every fact that the demonstration prints has been checked by it just before; if one does not hold,
it says so, cleans up and exits with 1.  Ctrl-C cleans up as well, and exits with 130.
"""

import functools
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sinfonia.errors import SinfoniaError
from sinfoniafs import mounts
from sinfoniafs.demo.stage import MEMORY_NODES, DemoFailed, Interrupts, Stage, Surgery
from sinfoniafs.demo.tree import TreesDiffer, Work, compare_trees, copy_tree, entries_of
from sinfoniafs.mounts import MountError

VICTIM = "node1"
# Long enough that every copying thread has to wait for the memory node.
DEAD_SECONDS = 1.0

# Any other exception is a bug, and is shown with its traceback.
FAILURES = (
    DemoFailed,
    TreesDiffer,
    MountError,
    SinfoniaError,
    OSError,
    subprocess.SubprocessError,
)

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class Demo:
    """The steps of the demonstration, run on ``stage`` and described on ``console``."""

    def __init__(self, stage: Stage, source: Path, console: Console) -> None:
        self.stage = stage
        self.console = console
        self.source = source
        self.entries = entries_of(source)
        self.megabytes = sum(entry.size for entry in self.entries) / 1e6
        self.figures: list[tuple[str, Work]] = []

    def start_cluster(self) -> None:
        """Bring up all processes."""
        cluster = self.stage.cluster
        self._chapter(
            "A cluster",
            f"A manager and {MEMORY_NODES} memory nodes, each a process of its own, on the loopback"
            f" interface. Their redo logs and disk images are in {cluster.directory}.",
        )
        with self.console.status("starting"):
            self.stage.start_cluster()
        for name, process in cluster.running.items():
            self._print(f"  {name:8} {cluster.endpoints[name]}  process {process.pid}")

    def mount_twice(self) -> None:
        """Make a volume and mount it at two places."""
        self._chapter(
            "A file system, mounted twice",
            "The two mounts are two application nodes: they share nothing but the memory nodes,"
            " and do not know of each other. Every operation on a file is a minitransaction.",
        )
        self._command("mkfs", self.stage.cluster.directory)
        for mountpoint in self.stage.mountpoints:
            mountpoint.mkdir()
            log_file = self.stage.log_file(mountpoint)
            cluster = self.stage.cluster.directory
            self._command("mount", cluster, mountpoint, "--log-file", log_file)

    def copy_and_compare(self) -> None:
        """What is written through one mount is read through the other."""
        first, second = self.stage.mountpoints
        self._chapter(
            "Copied through one, read through the other",
            f"{self.source}: {len(self.entries)} files, {self.megabytes:.0f} MB, copied through"
            f" {first.name} and compared byte by byte through {second.name}.",
        )
        self._copy("copy", first / "calm")
        self._compare("compare", second, ["calm"])
        self._print(f"[green]All {len(self.entries)} files are the same.[/]")
        began = time.monotonic()
        found = _find(second / "calm")
        if found != len(self.entries):
            raise DemoFailed(f"find sees {found} files, not {len(self.entries)}")
        seconds = time.monotonic() - began
        self.figures.append(("find", Work(found, 0, seconds, seconds)))

    def copy_while_a_memory_node_dies(self) -> None:
        """A killed memory node is a pause, and nothing else."""
        first, second = self.stage.mountpoints
        self._chapter(
            f"Copied again, while {VICTIM} is killed",
            f"Half-way {VICTIM} gets SIGKILL, and all its memory is gone. It is started anew after"
            f" {DEAD_SECONDS:g} s, reads its disk image, replays its redo log, settles with the"
            " others what was undecided, and serves. Meanwhile the copy waits; it must not notice"
            " anything else.",
        )
        cluster = self.stage.cluster
        before = cluster.running[VICTIM].pid
        half = max(1, len(self.entries) // 2)
        with Surgery(cluster, VICTIM, after=half, dead_seconds=DEAD_SECONDS) as surgery:
            work = self._copy(f"copy, {VICTIM} killed", first / "storm", surgery.count)
        after = cluster.running[VICTIM].pid
        if before == after:
            raise DemoFailed(f"{VICTIM} was not killed")
        self._print(
            f"Process {before} was killed, {after} serves in its place {surgery.seconds:.1f} s"
            f" later. The copy saw no error; its slowest file took {work.longest:.1f} s."
        )
        self._compare("compare both", second, ["calm", "storm"])
        self._print("[green]Nothing that was acknowledged is lost, before or after.[/]")

    def count(self) -> None:
        """What it took."""
        table = Table(title="Figures", title_justify="left", title_style="bold")
        table.add_column("")
        for column in ("files", "MB", "seconds", "files/s", "MB/s", "slowest file"):
            table.add_column(column, justify="right")
        for title, work in self.figures:
            table.add_row(
                title,
                f"{work.files}",
                f"{work.bytes / 1e6:.0f}" if work.bytes else "",
                f"{work.seconds:.1f}",
                f"{work.files / work.seconds:.0f}",
                f"{work.bytes / 1e6 / work.seconds:.1f}" if work.bytes else "",
                f"{work.longest:.2f} s" if work.bytes else "",
            )
        minitransactions = Table()
        minitransactions.add_column("")
        for column in ("minitransactions", "busy locks retried", "requests sent again"):
            minitransactions.add_column(column, justify="right")
        for mountpoint in self.stage.mountpoints:
            counts = self.stage.statistics(mountpoint)
            values = (counts["executed"], counts["retried"], counts["resent"])
            minitransactions.add_row(mountpoint.name, *map(str, values))
        self.console.print()
        self.console.print(table)
        self.console.print(minitransactions)

    def check(self) -> None:
        """Let fsck prove that the volume is sound."""
        self._chapter("Is it sound?", "fsck reads every inode, directory and map of the volume.")
        report = json.loads(self._command("fsck", self.stage.cluster.directory, "--json"))
        expected = 2 * len([each for each in self.entries if not each.is_link])
        if not report["clean"] or report["files"] < expected:
            raise DemoFailed(f"fsck found {report['files']} files and {report['problems']}")
        self._print(
            f"[green]{report['files']} files, {report['directories']} directories: every block and"
            " inode is used once and reachable.[/]"
        )

    def unmount(self) -> None:
        """Take both mounts down the way a user does."""
        for mountpoint in self.stage.mountpoints:
            self._command("umount", mountpoint)
            if mounts.mount_at(mountpoint) is not None:
                raise DemoFailed(f"{mountpoint} is still mounted")

    def leave(self) -> None:
        """Say how to go on with what is left running."""
        first, second = self.stage.mountpoints
        directory = self.stage.cluster.directory
        binaries = Path(sys.executable).parent
        self._chapter("Yours to play with", f"Write to {first}, read from {second}. To stop it:")
        for line in (
            f"{binaries}/sinfoniafs umount {first}",
            f"{binaries}/sinfoniafs umount {second}",
            f"{binaries}/sinfonia down {directory}",
            f"rm -r {self.stage.directory}",
        ):
            self.console.print(f"  {line}", highlight=False, soft_wrap=True)

    # Printing.

    def _copy(self, title: str, target: Path, also: Callable[[], None] = lambda: None) -> Work:
        with self._bar(title, len(self.entries)) as advance:

            def on_file() -> None:
                advance()
                also()

            work = copy_tree(self.source, target, self.entries, on_file)
        self.figures.append((title, work))
        return work

    def _compare(self, title: str, root: Path, trees: list[str]) -> None:
        with self._bar(title, len(trees) * len(self.entries)) as advance:
            works = [
                compare_trees(self.source, root / tree, self.entries, advance) for tree in trees
            ]
        self.figures.append((title, Work.sum(works)))

    def _command(self, *arguments: str | Path) -> str:
        shown = " ".join(map(str, arguments))
        self.console.print(f"[dim]$ sinfoniafs {shown}[/]", highlight=False, soft_wrap=True)
        return self.stage.sinfoniafs(*arguments)

    def _chapter(self, title: str, text: str) -> None:
        self.console.print(f"\n[bold]{title}[/]")
        self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False)

    @contextmanager
    def _bar(self, title: str, files: int) -> Iterator[Callable[[], None]]:
        columns = (
            TextColumn(f"{{task.description:{len('copy, node1 killed')}}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("files"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=files)
            yield functools.partial(progress.advance, task)


def _find(root: Path) -> int:
    """How many files and symbolic links find(1) sees below ``root``."""
    command = ["find", str(root), "-type", "f", "-o", "-type", "l"]
    found = subprocess.run(command, capture_output=True, check=True)
    return found.stdout.count(b"\n")


def _play(demo: Demo, *, keep: bool) -> None:
    demo.start_cluster()
    demo.mount_twice()
    demo.copy_and_compare()
    demo.copy_while_a_memory_node_dies()
    if keep:
        demo.check()
        demo.count()
        demo.leave()
        return
    demo.count()
    demo.unmount()
    demo.check()


@click.command()
@click.option("--keep", is_flag=True, help="Leave the cluster and the mounts running.")
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=sysconfig.get_path("stdlib"),
    show_default=True,
    help="The tree of files to copy.",
)
def main(source: Path, *, keep: bool) -> None:
    """Show a cluster file system on this machine, in less than two minutes."""
    console = Console()
    interrupts = Interrupts()
    interrupts.catch()
    stage = None
    status = EXIT_FAILED
    try:
        mounts.check_fuse_device()
        with interrupts.deferred():
            stage = Stage(Path(tempfile.mkdtemp(prefix="sinfonia-demo-")), interrupts)
        _play(Demo(stage, source.resolve(), console), keep=keep)
        status = 0
    except FAILURES as error:
        console.print(f"\n[bold red]This failed:[/] {error}", highlight=False)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
        console.print("\nInterrupted.")
    finally:
        if stage is not None and (status != 0 or not keep):
            with console.status("stopping everything"):
                stage.strike()
            console.print("Everything that was started is stopped, and the directory is removed.")
    sys.exit(status)


if __name__ == "__main__":
    main()
