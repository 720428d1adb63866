"""The adapter translates both ways, lets nothing through that ends a mount, and caches nothing."""

import errno
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest
import trio
from pyfuse3 import EntryAttributes, FUSEError, RequestContext, SetattrFields

from sinfonia.errors import Contended, OutcomeUnknown, Refused, SinfoniaError, TimedOut
from sinfonia.testing.model import ModelCluster
from sinfoniafs.fsck.check import check_volume
from sinfoniafs.mkfs import make_volume
from sinfoniafs.operations import (
    COOKIE_PARENT,
    STATFS_AGE_MAX,
    VolumeOperations,
    errno_of,
)
from sinfoniafs.volume.mounting import close_volume, open_volume

ROOT = int(pyfuse3.ROOT_INODE)
USER = cast("RequestContext", SimpleNamespace(uid=1000, gid=100, pid=1, umask=0o022))


class MountedVolume:
    """Operations on a fresh volume, and the cluster below, to interfere with."""

    def __init__(self, cluster: ModelCluster, operations: VolumeOperations) -> None:
        self.cluster = cluster
        self.operations = operations

    async def file(self, name: bytes, flags: int = os.O_RDWR) -> tuple[int, int]:
        """Create a file in the root; returns (handle, inode)."""
        info, entry = await self.operations.create(ROOT, name, 0o644, flags, USER)
        return info.fh, entry.st_ino

    async def names(self, inode: int, *, room: int = 1000, start: int = 0) -> list[bytes]:
        """What one readdir request with room for so many entries returns."""
        return [name for name, _, _ in await self.entries(inode, room=room, start=start)]

    async def entries(
        self, inode: int, *, room: int = 1000, start: int = 0
    ) -> list[tuple[bytes, EntryAttributes, int]]:
        handle = await self.operations.opendir(inode, USER)
        token = cast("pyfuse3.ReaddirToken", ReplyBuffer(room))
        await self.operations.readdir(handle, start, token)
        await self.operations.releasedir(handle)
        return cast("ReplyBuffer", token).entries


class ReplyBuffer:
    """Stands in for the kernel's buffer, which takes so many entries."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.entries: list[tuple[bytes, EntryAttributes, int]] = []

    def add(self, name: bytes, attributes: EntryAttributes, cookie: int) -> bool:
        if len(self.entries) == self.room:
            return False
        self.entries.append((name, attributes, cookie))
        return True


@pytest.fixture(autouse=True)
def _reply_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", ReplyBuffer.add)


@asynccontextmanager
async def fresh_volume() -> AsyncIterator[MountedVolume]:
    """Ends with fsck, as every test of the file system does."""
    async with ModelCluster(memory_nodes=2, capacity=16 * 1024 * 1024) as cluster:
        await make_volume(cluster, name="default")
        volume = await open_volume(cluster, name="default")
        operations = VolumeOperations(volume)
        yield MountedVolume(cluster, operations)
        operations.check_invariants()
        cluster.before_execute = None
        await close_volume(volume)
        report = await check_volume(cluster, name="default")
        assert report.clean, report.problems


def on_volume(scenario: Callable[[MountedVolume], Awaitable[None]]) -> None:
    async def run() -> None:
        with trio.fail_after(30):
            async with fresh_volume() as mounted:
                await scenario(mounted)

    trio.run(run)


def fails_with(number: int) -> Any:  # noqa: ANN401 - pytest's own type is private
    return pytest.raises(FUSEError, check=lambda error: error.errno == number)


def test_the_root_is_inode_1_whatever_the_volume_calls_it() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        root = await mounted.operations.getattr(ROOT, USER)
        assert root.st_ino == ROOT
        assert stat.S_ISDIR(root.st_mode)
        _, inode = await mounted.file(b"file")
        assert inode != ROOT
        assert (await mounted.operations.lookup(ROOT, b"..", USER)).st_ino == ROOT

    on_volume(scenario)


def test_attributes_and_entries_are_not_cached_by_the_kernel() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        info, made = await operations.create(ROOT, b"file", 0o644, os.O_RDWR, USER)
        found = await operations.lookup(ROOT, b"file", USER)
        for entry in (made, found, await operations.getattr(found.st_ino, USER)):
            assert (entry.entry_timeout, entry.attr_timeout) == (0, 0)
        opened = await operations.open(found.st_ino, os.O_RDONLY, USER)
        assert not info.keep_cache
        assert not opened.keep_cache
        await operations.release(info.fh)
        await operations.release(opened.fh)

    on_volume(scenario)


def test_only_files_open_for_appending_bypass_the_page_cache() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        plain, entry = await operations.create(ROOT, b"file", 0o644, os.O_RDWR, USER)
        append = await operations.open(entry.st_ino, os.O_WRONLY | os.O_APPEND, USER)
        assert not plain.direct_io
        assert append.direct_io
        await operations.release(plain.fh)
        await operations.release(append.fh)

    on_volume(scenario)


def test_what_is_written_is_read() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        handle, inode = await mounted.file(b"file")
        assert await operations.write(handle, 0, b"hello") == 5
        assert await operations.write(handle, 100_000, b"world") == 5
        assert await operations.read(handle, 0, 5) == b"hello"
        assert await operations.read(handle, 99_999, 100) == b"\0world"
        assert (await operations.getattr(inode, USER)).st_size == 100_005
        await operations.fsync(handle, datasync=True)
        await operations.release(handle)

    on_volume(scenario)


def test_an_append_goes_to_the_end_wherever_the_kernel_thinks_that_is() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        first, inode = await mounted.file(b"log", os.O_WRONLY | os.O_APPEND)
        second = (await operations.open(inode, os.O_WRONLY | os.O_APPEND, USER)).fh
        reader = (await operations.open(inode, os.O_RDONLY, USER)).fh
        await operations.write(first, 0, b"one ")
        await operations.write(second, 0, b"two ")
        await operations.write(first, 4, b"three")
        assert await operations.read(reader, 0, 100) == b"one two three"
        for handle in (first, second, reader):
            await operations.release(handle)

    on_volume(scenario)


def test_opening_with_o_trunc_empties_the_file() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        handle, inode = await mounted.file(b"file")
        await operations.write(handle, 0, b"old")
        other = (await operations.open(inode, os.O_WRONLY | os.O_TRUNC, USER)).fh
        assert (await operations.getattr(inode, USER)).st_size == 0
        await operations.release(handle)
        await operations.release(other)

    on_volume(scenario)


def test_new_objects_belong_to_the_caller() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        handle, _ = await mounted.file(b"file")
        await operations.release(handle)
        await operations.mkdir(ROOT, b"directory", stat.S_IFDIR | 0o755, USER)
        await operations.symlink(ROOT, b"link", b"target", USER)
        await operations.mknod(ROOT, b"pipe", stat.S_IFIFO | 0o600, 0, USER)
        for name in (b"file", b"directory", b"link", b"pipe"):
            entry = await operations.lookup(ROOT, name, USER)
            assert (entry.st_uid, entry.st_gid) == (USER.uid, USER.gid)
        assert stat.S_ISFIFO((await operations.lookup(ROOT, b"pipe", USER)).st_mode)
        link = await operations.lookup(ROOT, b"link", USER)
        assert await operations.readlink(link.st_ino, USER) == b"target"

    on_volume(scenario)


def test_a_create_that_lost_a_race_makes_the_kernel_look_again() -> None:
    """The kernel answers ESTALE with a second look; EEXIST would be a lie without O_EXCL."""

    async def scenario(mounted: MountedVolume) -> None:
        handle, _ = await mounted.file(b"file")
        with fails_with(errno.ESTALE):
            await mounted.operations.create(ROOT, b"file", 0o644, os.O_RDWR | os.O_CREAT, USER)
        with fails_with(errno.EEXIST):
            await mounted.operations.create(
                ROOT, b"file", 0o644, os.O_RDWR | os.O_CREAT | os.O_EXCL, USER
            )
        await mounted.operations.release(handle)

    on_volume(scenario)


def test_setattr_changes_what_is_asked_and_nothing_else() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        handle, inode = await mounted.file(b"file")
        before = await operations.getattr(inode, USER)
        wanted = EntryAttributes()
        wanted.st_mode = stat.S_IFREG | 0o600
        wanted.st_mtime_ns = 1_234_567_890
        wanted.st_size = 77
        names = ("size", "mode", "uid", "gid", "atime", "mtime", "ctime")
        fields = {f"update_{name}": name in {"mode", "mtime"} for name in names}
        after = await operations.setattr(
            inode, wanted, cast("SetattrFields", SimpleNamespace(**fields)), None, USER
        )
        assert after.st_mode == stat.S_IFREG | 0o600
        assert after.st_mtime_ns == 1_234_567_890
        assert after.st_size == before.st_size == 0
        assert (after.st_uid, after.st_atime_ns) == (before.st_uid, before.st_atime_ns)
        await operations.release(handle)

    on_volume(scenario)


@pytest.mark.parametrize("room", [1, 2, 3, 7, 64, 1000])
def test_a_directory_is_listed_once_whatever_the_kernels_buffer_holds(room: int) -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        expected = {b"file-%d" % number for number in range(150)}
        for name in expected:
            await operations.mknod(ROOT, name, stat.S_IFREG | 0o644, 0, USER)
        listed: list[bytes] = []
        cookie = 0
        while entries := await mounted.entries(ROOT, room=room, start=cookie):
            listed += [name for name, _, _ in entries]
            cookie = entries[-1][2]
        assert listed[:2] == [b".", b".."]
        assert sorted(listed[2:]) == sorted(expected)

    on_volume(scenario)


def test_a_listing_tells_each_entry_as_lookup_does() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        await operations.mkdir(ROOT, b"directory", stat.S_IFDIR | 0o755, USER)
        handle, _ = await mounted.file(b"file")
        await operations.write(handle, 0, b"12345")
        for name, listed, cookie in await mounted.entries(ROOT):
            found = await operations.lookup(ROOT, name, USER)
            assert (listed.st_ino, listed.st_mode) == (found.st_ino, found.st_mode)
            assert listed.st_size == found.st_size
            assert cookie > COOKIE_PARENT or name in {b".", b".."}
        await operations.release(handle)

    on_volume(scenario)


def test_an_unlinked_file_can_be_used_until_it_is_released() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        handle, inode = await mounted.file(b"file")
        await operations.unlink(ROOT, b"file", USER)
        await operations.write(handle, 0, b"still here")
        assert await operations.read(handle, 0, 100) == b"still here"
        assert (await operations.getattr(inode, USER)).st_nlink == 0
        await operations.release(handle)
        assert await mounted.names(ROOT) == [b".", b".."]

    on_volume(scenario)


def test_refusals_of_the_volume_arrive_as_their_errno() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        handle, inode = await mounted.file(b"file")
        with fails_with(errno.ENOENT):
            await operations.lookup(ROOT, b"missing", USER)
        with fails_with(errno.ENAMETOOLONG):
            await operations.mknod(ROOT, b"x" * 256, stat.S_IFREG | 0o644, 0, USER)
        with fails_with(errno.ENOTDIR):
            await operations.lookup(inode, b"name", USER)
        with fails_with(errno.EEXIST):
            await operations.mkdir(ROOT, b"file", stat.S_IFDIR | 0o755, USER)
        with fails_with(errno.EINVAL):
            await operations.readlink(inode, USER)
        await operations.release(handle)

    on_volume(scenario)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (Contended("busy"), errno.ETIMEDOUT),
        (TimedOut("no answer"), errno.ETIMEDOUT),
        (OutcomeUnknown("no reply", tid=None), errno.ETIMEDOUT),
        (Refused("too many"), errno.EIO),
        (SinfoniaError("anything"), errno.EIO),
    ],
)
def test_errors_of_the_cluster_become_errors_of_input_and_output(
    error: SinfoniaError, number: int
) -> None:
    def fail(_: object) -> None:
        raise error

    async def scenario(mounted: MountedVolume) -> None:
        mounted.cluster.before_execute = fail
        with fails_with(number):
            await mounted.operations.getattr(ROOT, USER)
        mounted.cluster.before_execute = None
        await mounted.operations.getattr(ROOT, USER)

    assert errno_of(error) == number
    on_volume(scenario)


def test_a_bug_costs_one_request_and_not_the_mount(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("a bug")

    async def scenario(mounted: MountedVolume) -> None:
        mounted.cluster.before_execute = fail
        with fails_with(errno.EIO):
            await mounted.operations.getattr(ROOT, USER)
        mounted.cluster.before_execute = None
        await mounted.operations.getattr(ROOT, USER)

    on_volume(scenario)
    assert "a bug" in caplog.text


def test_statfs_counts_what_is_used_but_not_every_time() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        now = 0.0
        operations.clock = lambda: now
        before = await operations.statfs(USER)
        handle, _ = await mounted.file(b"file")
        await operations.write(handle, 0, bytes(1024 * 1024))
        now = STATFS_AGE_MAX / 2
        assert (await operations.statfs(USER)).f_bfree == before.f_bfree
        now = STATFS_AGE_MAX
        after = await operations.statfs(USER)
        assert before.f_blocks == after.f_blocks >= before.f_bfree > after.f_bfree
        assert after.f_namemax == 255
        await operations.release(handle)

    on_volume(scenario)


def test_every_handle_is_its_own_and_ends_with_release() -> None:
    async def scenario(mounted: MountedVolume) -> None:
        operations = mounted.operations
        first, inode = await mounted.file(b"file")
        second = (await operations.open(inode, os.O_RDONLY, USER)).fh
        directory = await operations.opendir(ROOT, USER)
        assert len({first, second, directory}) == 3
        operations.check_invariants()
        await operations.release(first)
        assert await operations.read(second, 0, 10) == b""
        await operations.release(second)
        await operations.releasedir(directory)
        assert not operations.open_files
        assert not operations.open_directories

    on_volume(scenario)
