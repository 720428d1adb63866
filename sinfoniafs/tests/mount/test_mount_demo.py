"""The demonstration shows what it says, and leaves nothing behind, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sinfoniafs import mounts
from sinfoniafs.demo.tree import TreesDiffer, compare_trees, copy_tree, entries_of
from sinfoniafs.mount_testing import can_mount

SOURCE = Path(os.__file__).parent / "json"

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.network,
    pytest.mark.skipif(not can_mount(), reason="mounting needs root and /dev/fuse"),
]


def start_demo(temporary: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "sinfoniafs.demo", "--source", str(SOURCE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def assert_nothing_left(temporary: Path) -> None:
    assert not list(temporary.iterdir())
    assert not [each for each in mounts.mounted() if each.mountpoint.is_relative_to(temporary)]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(temporary) not in process.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue


def test_the_demonstration_shows_what_it_says(tmp_path: Path) -> None:
    demo = start_demo(tmp_path)
    told, _ = demo.communicate(timeout=110)
    assert demo.returncode == 0, told
    for words in ("files are the same", "Nothing that was acknowledged is lost", "Figures"):
        assert words in told
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    "moment", ["A cluster", "mounted twice", "$ sinfoniafs mount", "Copied through", "is killed"]
)
def test_an_interrupt_cleans_up(tmp_path: Path, moment: str) -> None:
    demo = start_demo(tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if moment in line:
            break
    demo.send_signal(signal.SIGINT)
    told, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, told
    assert_nothing_left(tmp_path)


def test_a_difference_is_found(tmp_path: Path) -> None:
    """The comparison that the demonstration trusts can fail."""
    entries = entries_of(SOURCE)
    copy_tree(SOURCE, tmp_path / "copy", entries, lambda: None)
    assert compare_trees(SOURCE, tmp_path / "copy", entries, lambda: None).files == len(entries)
    victim = tmp_path / "copy" / "decoder.py"
    text = victim.read_bytes()
    victim.write_bytes(text[:-1] + b"?")
    with pytest.raises(TreesDiffer, match="decoder"):
        compare_trees(SOURCE, tmp_path / "copy", entries, lambda: None)
    victim.write_bytes(text + b"more")
    with pytest.raises(TreesDiffer, match="decoder"):
        compare_trees(SOURCE, tmp_path / "copy", entries, lambda: None)
    victim.unlink()
    with pytest.raises(TreesDiffer, match="files"):
        compare_trees(SOURCE, tmp_path / "copy", entries, lambda: None)
