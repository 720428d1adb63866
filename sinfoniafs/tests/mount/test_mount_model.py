"""Random operations do on the mount what they do on a local file system, errors included."""

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sinfoniafs.mount_testing import can_mount, model_mount

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not can_mount(), reason="mounting needs root and /dev/fuse"),
]

# Few names at two levels, so that operations meet each other's results.
NAMES = ["a", "b", "c", "d", "d/a", "d/b", "e", "e/a", "e/b", "e/d"]
STEPS = 1500

Operation = Callable[[Path, random.Random], object]


def _name(root: Path, rng: random.Random) -> Path:
    return root / rng.choice(NAMES)


def write(root: Path, rng: random.Random) -> object:
    flags = os.O_RDWR | rng.choice([0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND])
    path, offset = _name(root, rng), rng.choice([0, 10, 16_384, 20_000, 100_000])
    data = rng.randbytes(rng.choice([1, 100, 5_000, 40_000]))
    file = os.open(path, flags, 0o640)
    try:
        os.lseek(file, offset, os.SEEK_SET)
        return os.write(file, data), os.pread(file, 50_000, offset // 2)
    finally:
        os.close(file)


def read(root: Path, rng: random.Random) -> object:
    return _name(root, rng).read_bytes()


def truncate(root: Path, rng: random.Random) -> None:
    os.truncate(_name(root, rng), rng.choice([0, 1, 10_000, 16_384, 120_000]))


def mkdir(root: Path, rng: random.Random) -> None:
    _name(root, rng).mkdir(mode=rng.choice([0o755, 0o700]))


def rmdir(root: Path, rng: random.Random) -> None:
    _name(root, rng).rmdir()


def unlink(root: Path, rng: random.Random) -> None:
    _name(root, rng).unlink()


def rename(root: Path, rng: random.Random) -> None:
    _name(root, rng).rename(_name(root, rng))


def link(root: Path, rng: random.Random) -> None:
    os.link(_name(root, rng), _name(root, rng), follow_symlinks=False)


def symlink(root: Path, rng: random.Random) -> None:
    _name(root, rng).symlink_to(rng.choice(["a", "d/b", "nowhere", "x" * 500]))


def readlink(root: Path, rng: random.Random) -> object:
    return _name(root, rng).readlink()


def chmod(root: Path, rng: random.Random) -> object:
    path = _name(root, rng)
    path.chmod(rng.choice([0o600, 0o755, 0o4711, 0o2755]))
    return path.stat().st_mode


def chown(root: Path, rng: random.Random) -> object:
    path = _name(root, rng)
    os.chown(path, rng.choice([-1, 0, 1000]), rng.choice([-1, 0, 100]))
    return path.stat().st_mode


def utime(root: Path, rng: random.Random) -> None:
    os.utime(_name(root, rng), ns=(rng.randrange(10**18), rng.randrange(10**18)))


def list_directory(root: Path, rng: random.Random) -> object:
    return sorted(path.name for path in _name(root, rng).iterdir())


OPERATIONS: list[Operation] = [write, read, truncate, mkdir, rmdir, unlink, rename, link]
OPERATIONS += [symlink, readlink, chmod, chown, utime, list_directory]


def outcome(operation: Operation, root: Path, seed: int) -> object:
    """What the operation returns, or its errno."""
    try:
        return operation(root, random.Random(seed))
    except OSError as error:
        return error.errno


def description(root: Path) -> dict[str, object]:
    """All of a tree that two file systems must agree on."""
    found: dict[str, object] = {}
    for directory, directories, files in os.walk(root):
        for path in (Path(directory, name) for name in directories + files):
            status = path.lstat()
            entry: list[object] = [status.st_mode, status.st_uid, status.st_gid]
            if stat.S_ISREG(status.st_mode):
                entry += [status.st_nlink, status.st_size, path.read_bytes()]
            elif stat.S_ISLNK(status.st_mode):
                entry += [path.readlink()]
            found[str(path.relative_to(root))] = entry
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_mount_does_what_a_local_directory_does(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    local = tmp_path / "local"
    local.mkdir()
    with model_mount(tmp_path / "volume") as volume:
        remote = volume / "tree"
        remote.mkdir()
        for step in range(STEPS):
            operation, operation_seed = rng.choice(OPERATIONS), rng.randrange(2**32)
            expected = outcome(operation, local, operation_seed)
            found = outcome(operation, remote, operation_seed)
            assert found == expected, f"step {step}: {operation.__name__}, seed {operation_seed}"
        assert description(remote) == description(local)
