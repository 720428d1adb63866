"""Real disks that lose what was synced: an in-sync copy mends it, or the memory node refuses."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sinfonia import BlockingCluster, connect_blocking
from sinfonia.config import Times
from sinfonia.operating.local_cluster import LocalCluster
from sinfonia.operating.refusals import StartFailed
from sinfonia.storage.files import SECTOR_BYTES
from sinfonia.testing.real_cluster import (
    primary_of,
    process_status,
    real_cluster,
    replicas_of,
    wait_until,
    wait_until_well,
)

pytestmark = [pytest.mark.network, pytest.mark.slow]

WRITES = 50
STRIDE = 64

# A mark is raised four times a second; what is older is known to have been synced.
MARKED = Times(fail_after=1.0, drop_after=1.0)


def write_all(cluster: BlockingCluster, value: bytes, count: int = WRITES) -> None:
    for number in range(count):
        t = cluster.minitransaction()
        t.write(0, number * STRIDE, value + number.to_bytes(4, "little"))
        assert t.execute(timeout=10.0).committed


def assert_all(cluster: BlockingCluster, value: bytes, count: int = WRITES) -> None:
    for number in range(count):
        t = cluster.minitransaction()
        t.read(0, number * STRIDE, len(value) + 4)
        [found] = t.execute(timeout=20.0).reads
        assert found == value + number.to_bytes(4, "little"), f"write {number} was lost"


def newest_segment(directory: Path) -> Path:
    return max(directory.glob("log.*"))


def end_of_data(segment: Path) -> int:
    """Where the last sector ends that is not all zeros."""
    data = segment.read_bytes().rstrip(b"\0")
    return -(-len(data) // SECTOR_BYTES) * SECTOR_BYTES


def zero_the_last_blocks(segment: Path) -> None:
    end = end_of_data(segment)
    with segment.open("r+b") as file:
        file.seek(end - 3 * SECTOR_BYTES)
        file.write(bytes(3 * SECTOR_BYTES))


def flip_a_bit_at_the_end(segment: Path) -> None:
    _flip(segment, end_of_data(segment) - SECTOR_BYTES + 60)


def flip_a_bit_in_the_middle(segment: Path) -> None:
    _flip(segment, end_of_data(segment) // 2 // SECTOR_BYTES * SECTOR_BYTES + 60)


def remove(segment: Path) -> None:
    segment.unlink()


def _flip(segment: Path, offset: int) -> None:
    with segment.open("r+b") as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


DAMAGES = [zero_the_last_blocks, flip_a_bit_at_the_end, flip_a_bit_in_the_middle, remove]
Damage = Callable[[Path], None]


def directory_of(cluster: LocalCluster, name: str) -> Path:
    [process] = [each for each in cluster.config.processes if each.name == name]
    return Path(process.data_directory)


def kill_all(cluster: LocalCluster) -> None:
    for name in cluster.endpoints:
        cluster.kill(name)


@pytest.fixture
def replicated() -> Iterator[LocalCluster]:
    with real_cluster(memory_nodes=1, times=MARKED) as cluster:
        wait_until_well(cluster)
        yield cluster


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_the_primary_s_disk_lost_comes_back_from_the_in_sync_replica(
    replicated: LocalCluster, damage: Damage
) -> None:
    with connect_blocking(replicated.endpoint) as client:
        write_all(client, b"acknowledged")
    struck = primary_of(replicated, 0)
    kill_all(replicated)
    damage(newest_segment(directory_of(replicated, struck)))
    replicated.start()
    wait_until_well(replicated)
    assert primary_of(replicated, 0) != struck, "the undamaged copy leads"
    with connect_blocking(replicated.endpoint) as client:
        assert_all(client, b"acknowledged")
        write_all(client, b"later")
    # And the other way round: the member that was repaired holds everything by itself.
    replicated.kill(primary_of(replicated, 0))
    with connect_blocking(replicated.endpoint) as client:
        assert_all(client, b"later")


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_replica_s_disk_lost_is_copied_from_the_primary(
    replicated: LocalCluster, damage: Damage
) -> None:
    with connect_blocking(replicated.endpoint) as client:
        write_all(client, b"acknowledged")
    [struck] = replicas_of(replicated, 0)
    kill_all(replicated)
    damage(newest_segment(directory_of(replicated, struck)))
    replicated.start()
    wait_until_well(replicated)
    with connect_blocking(replicated.endpoint) as client:
        assert_all(client, b"acknowledged")
    replicated.kill(primary_of(replicated, 0))
    with connect_blocking(replicated.endpoint) as client:
        assert_all(client, b"acknowledged")


def test_status_and_log_say_that_a_member_was_damaged_and_repaired(
    replicated: LocalCluster,
) -> None:
    with connect_blocking(replicated.endpoint) as client:
        write_all(client, b"acknowledged")
    struck = primary_of(replicated, 0)
    kill_all(replicated)
    flip_a_bit_in_the_middle(newest_segment(directory_of(replicated, struck)))
    replicated.start()
    wait_until_well(replicated)
    figures = process_status(replicated, struck).figures
    assert (figures["damaged"], figures["repairs"]) == (0, 1)
    said = replicated.log_file(struck).read_text()
    assert "damaged node=0" in said
    assert "acknowledged writes are lost" in said


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_only_copy_refuses_to_serve_what_it_lost(damage: Damage) -> None:
    with real_cluster(memory_nodes=1, mode="LOG", replicas=0) as cluster:
        with connect_blocking(cluster.endpoint) as client:
            write_all(client, b"acknowledged")
        [name] = [each for each in cluster.endpoints if each != "manager"]
        directory = directory_of(cluster, name)
        wait_until(cluster, lambda _: marked_all(directory), "the mark has been raised")
        kill_all(cluster)
        damage(newest_segment(directory))
        with pytest.raises(StartFailed) as failed:
            cluster.start()
        assert "lost" in str(failed.value) or "missing" in str(failed.value)
        assert "restore" in str(failed.value)


def marked_all(directory: Path) -> bool:
    """Whether the mark has come up to the end of the log."""
    data = (directory / "synced").read_bytes()
    slots = [data[start : start + 32] for start in (0, SECTOR_BYTES)]
    newest = max(slots, key=lambda slot: int.from_bytes(slot[16:24], "little"))
    segment = newest_segment(directory)
    end = int(segment.name.removeprefix("log."), 16) + end_of_data(segment)
    return int.from_bytes(newest[24:32], "little") == end


def test_a_killed_process_alone_damages_nothing(replicated: LocalCluster) -> None:
    """A kill in the middle of everything leaves marks behind the log, never ahead of it."""
    for _ in range(3):
        with connect_blocking(replicated.endpoint) as client:
            write_all(client, b"x", 20)
        kill_all(replicated)
        replicated.start()
    wait_until_well(replicated)
    for name in replicated.endpoints:
        if name != "manager":
            assert process_status(replicated, name).figures["repairs"] == 0
            size = (directory_of(replicated, name) / "synced").stat().st_size
            assert size == 2 * SECTOR_BYTES
