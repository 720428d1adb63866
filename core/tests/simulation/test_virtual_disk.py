"""The virtual disk is a disk: it keeps the promises of a real one, and no others."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinfonia.simulation.disk import PowerLost, VirtualDisk
from sinfonia.storage.files import SECTOR_BYTES, Files, OsFiles

SEEDS = range(200)


def content(files: Files, name: str) -> bytes:
    file = files.open(name)
    data = file.read_at(0, file.size())
    file.close()
    return data


def survivors(disk: VirtualDisk) -> dict[str, bytes]:
    return {name: content(disk, name) for name in disk.names()}


def a_synced_file(seed: int, data: bytes) -> VirtualDisk:
    disk = VirtualDisk(Random(seed))
    file = disk.open("a", create=True)
    file.write_at(0, data)
    file.sync()
    disk.sync_directory()
    return disk


def test_what_was_synced_survives_every_crash() -> None:
    for seed in SEEDS:
        disk = a_synced_file(seed, b"synced")
        disk.crash()
        disk.crash()
        assert survivors(disk) == {"a": b"synced"}


def test_each_sector_of_an_unsynced_write_survives_or_not_on_its_own() -> None:
    seen = set()
    for seed in SEEDS:
        disk = a_synced_file(seed, bytes(3 * SECTOR_BYTES))
        disk.open("a").write_at(0, b"\1" * 3 * SECTOR_BYTES)
        disk.crash()
        data = content(disk, "a")
        sectors = [data[i * SECTOR_BYTES : (i + 1) * SECTOR_BYTES] for i in range(3)]
        assert all(len(set(sector)) == 1 for sector in sectors), "a sector is not torn"
        seen.add(tuple(sector[0] for sector in sectors))
    assert len(seen) == 8


def test_a_sector_written_twice_has_one_of_the_versions_it_had() -> None:
    seen = Counter[bytes]()
    for seed in SEEDS:
        disk = a_synced_file(seed, b"....")
        disk.open("a").write_at(0, b"1")
        disk.open("a").write_at(1, b"2")
        disk.crash()
        seen[content(disk, "a")] += 1
    assert set(seen) == {b"....", b"1...", b"12.."}


def test_a_name_that_was_not_synced_survives_or_not() -> None:
    seen = set()
    for seed in SEEDS:
        disk = a_synced_file(seed, b"old")
        new = disk.open("b", create=True)
        new.write_at(0, b"new")
        new.sync()
        disk.rename("b", "a")
        disk.crash()
        seen.add(tuple(survivors(disk).items()))
    # Renames are atomic: the name a is never missing, and never half of each.
    assert seen == {
        (("a", b"old"),),
        (("a", b"old"), ("b", b"new")),
        (("a", b"new"),),
    }


def test_a_removal_that_was_not_synced_may_not_have_happened() -> None:
    seen = set()
    for seed in SEEDS:
        disk = a_synced_file(seed, b"x")
        disk.remove("a")
        assert disk.names() == []
        disk.crash()
        seen.add(tuple(disk.names()))
    assert seen == {(), ("a",)}


def test_an_unsynced_truncation_happened_or_not() -> None:
    seen = set()
    for seed in SEEDS:
        disk = a_synced_file(seed, b"12345678")
        disk.open("a").truncate(2)
        disk.crash()
        seen.add(content(disk, "a"))
    assert seen == {b"12", b"12345678"}


def test_after_a_failed_sync_the_writes_are_seen_but_never_reach_the_disk() -> None:
    lost = 0
    for seed in SEEDS:
        disk = a_synced_file(seed, b"old")
        file = disk.open("a")
        file.write_at(0, b"new")
        disk.fail_sync = True
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
        assert content(disk, "a") == b"new"
        file.sync()
        disk.crash()
        lost += content(disk, "a") == b"old"
    assert 0 < lost < len(SEEDS)


def test_a_full_disk_refuses_what_needs_space_and_nothing_else() -> None:
    disk = VirtualDisk(Random(1))
    file = disk.open("a", create=True)
    file.allocate(100)
    disk.full = True
    file.write_at(0, bytes(100))
    for act in (
        lambda: file.write_at(50, bytes(51)),
        lambda: file.allocate(101),
        lambda: disk.open("b", create=True),
    ):
        with pytest.raises(OSError, match="No space left"):
            act()
    disk.full = False
    file.write_at(50, bytes(51))


def test_power_is_lost_at_the_chosen_operation_and_comes_back() -> None:
    disk = VirtualDisk(Random(1))
    disk.lose_power_at = 2
    file = disk.open("a", create=True)
    file.write_at(0, b"x")
    with pytest.raises(PowerLost):
        file.sync()
    disk.crash()
    disk.open("a", create=True).sync()


def test_a_corrupted_byte_stays_corrupted() -> None:
    disk = a_synced_file(1, b"abc")
    disk.corrupt("a", 1)
    assert content(disk, "a") == b"acc"
    disk.crash()
    assert content(disk, "a") == b"acc"


def test_background_work_is_done_when_it_is_asked_for() -> None:
    disk = VirtualDisk(Random(1))
    done = []
    job = disk.in_background(lambda: done.append(1))
    assert not done
    assert job.done()
    assert job.done()
    assert done == [1]


def test_the_same_seed_leaves_the_same_disk() -> None:
    def run() -> dict[str, bytes]:
        disk = VirtualDisk(Random(7))
        for name in ("b", "a", "c"):
            file = disk.open(name, create=True)
            disk.sync_directory()
            file.write_at(0, b"\1" * 5000)
        disk.crash()
        return survivors(disk)

    assert run() == run()


names = st.sampled_from(["a", "b"])
offsets = st.integers(0, 9000)
steps = st.one_of(
    st.tuples(st.just("write"), names, offsets, st.binary(min_size=1, max_size=5000)),
    st.tuples(st.just("truncate"), names, offsets, st.just(b"")),
    st.tuples(st.just("allocate"), names, offsets, st.just(b"")),
    st.tuples(st.just("rename"), names, offsets, st.just(b"")),
    st.tuples(st.just("sync"), names, offsets, st.just(b"")),
)


def carry_out(files: Files, step: tuple[str, str, int, bytes]) -> None:
    kind, name, offset, data = step
    if kind == "rename":
        if files.exists(name):
            files.rename(name, "c")
        return
    file = files.open(name, create=True)
    if kind == "write":
        file.write_at(offset, data)
    elif kind == "truncate":
        file.truncate(offset)
    elif kind == "allocate":
        file.allocate(offset + 1)
    else:
        file.sync()
    file.close()


@given(script=st.lists(steps, max_size=12))
@settings(max_examples=60, deadline=None)
def test_without_faults_it_is_like_the_file_system(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, str, int, bytes]]
) -> None:
    path: Path = tmp_path_factory.mktemp("files")
    real, virtual = OsFiles(path), VirtualDisk(Random(1))
    for step in script:
        carry_out(real, step)
        carry_out(virtual, step)
    assert virtual.names() == real.names()
    for name in real.names():
        assert content(virtual, name) == content(real, name)
        virtual_file = virtual.open(name)
        covered = bytearray(content(real, name))
        for start, end in virtual_file.data_extents():
            covered[start:end] = bytes(end - start)
        assert not any(covered), "all data lies in extents"
    virtual.check_invariants()
