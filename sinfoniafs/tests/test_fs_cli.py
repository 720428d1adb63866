"""A user's mistake changes nothing, and gets one line that says what to do."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import sinfonia
from sinfonia.testing.model import ModelCluster
from sinfonia.transport.keygen import make_cluster_keys
from sinfonia.transport.keys import load_keys
from sinfoniafs import mounts
from sinfoniafs.commands import volume as cli_volume
from sinfoniafs.commands.arguments import Source, parse_mount_options
from sinfoniafs.commands.main import main, mount_helper
from sinfoniafs.commands.words import human_size
from sinfoniafs.mounts import MountError, check_fuse_device

CLUSTER = "tcp://127.0.0.1:7000"

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run the command with these arguments, as a shell would."""

    monkeypatch.delenv("SINFONIA_CLUSTER", raising=False)

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, [str(each) for each in arguments])

    return run


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> ModelCluster:
    """What every endpoint leads to."""
    model = ModelCluster(memory_nodes=2, capacity=8 * 1024 * 1024)

    async def connect(_: str, *, keys: sinfonia.Keys | None = None) -> ModelCluster:
        return model

    monkeypatch.setattr(cli_volume, "connect", connect)
    return model


def assert_refused(result: Result, *words: str, code: int = 1) -> None:
    """One line on standard error that says ``words``, no traceback, nothing on standard output."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr
    assert not result.stdout


# Volumes


def test_mkfs_makes_a_volume_that_info_shows_and_fsck_finds_sound(
    invoke: Invoke, cluster: ModelCluster
) -> None:
    assert invoke("mkfs", CLUSTER).exit_code == 0
    facts = json.loads(invoke("info", CLUSTER, "--json").stdout)
    assert (facts["volume"], facts["memory_nodes"], facts["sessions"]) == ("default", 2, [])
    assert 0 < facts["blocks_free"] <= facts["blocks"]
    report = json.loads(invoke("fsck", CLUSTER, "--json").stdout)
    assert report["clean"]
    assert (report["files"], report["directories"]) == (0, 1)
    assert "sound" in invoke("fsck", CLUSTER).stdout


def test_the_name_of_a_volume_may_stand_in_the_cluster_argument(
    invoke: Invoke, cluster: ModelCluster
) -> None:
    assert "photos" in invoke("mkfs", f"{CLUSTER}/photos").stdout
    assert "photos" in invoke("info", CLUSTER, "--name", "photos").stdout
    assert_refused(invoke("info", f"{CLUSTER}/music"), "photos", "music")


def test_info_is_words_and_human_sizes(invoke: Invoke, cluster: ModelCluster) -> None:
    made = invoke("mkfs", CLUSTER).stdout
    facts = json.loads(invoke("info", CLUSTER, "--json").stdout)
    shown = invoke("info", CLUSTER).stdout
    assert shown == made
    title, created, space, inodes, mounted = shown.splitlines()
    assert title == "Volume 'default' on 2 memory nodes"
    assert facts["created"] in created
    assert f"{human_size(facts['blocks'] * facts['block_size'])}, " in space
    assert space.endswith("free (0 % used), in blocks of 16 KiB")
    assert f"{facts['inodes']:,}, {facts['inodes_free']:,} free" in inodes
    assert mounted == "  mounted   nowhere"


def test_sizes_are_as_people_say_them() -> None:
    sizes = [0, 1, 1023, 1024, 1536, 3 << 20, 2**30 + 2**29, 5 << 40]
    assert [human_size(size) for size in sizes] == [
        *("0 bytes", "1 byte", "1,023 bytes", "1 KiB", "1.5 KiB", "3 MiB", "1.5 GiB", "5 TiB")
    ]


def test_the_cluster_may_be_that_of_the_environment(
    invoke: Invoke, cluster: ModelCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for command in ("mkfs", "info", "fsck"):
        assert_refused(invoke(command), "Missing argument", code=2)
    assert_refused(invoke("mount", tmp_path), "mount CLUSTER MOUNTPOINT", code=2)
    monkeypatch.setenv("SINFONIA_CLUSTER", f"{CLUSTER}/photos")
    for command in ("mkfs", "info", "fsck"):
        assert invoke(command).exit_code == 0
    assert "photos" in invoke("info").stdout
    missing = tmp_path / "missing"
    assert_refused(invoke("mount", missing), "does not exist", f"mkdir -p {missing}")
    assert_refused(invoke("mount", CLUSTER, tmp_path, "x"), "mount CLUSTER MOUNTPOINT", code=2)


def test_keys_are_an_option_of_every_command_that_connects(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[sinfonia.Keys | None] = []

    async def connect(_: str, *, keys: sinfonia.Keys | None = None) -> ModelCluster:
        given.append(keys)
        return ModelCluster(memory_nodes=1, capacity=8 * 1024 * 1024)

    monkeypatch.setattr(cli_volume, "connect", connect)
    make_cluster_keys(tmp_path, cluster="secure")
    keys = load_keys(tmp_path / "operator.key")
    for command in ("mkfs", "info", "fsck"):
        invoke(command, CLUSTER, "--keys", tmp_path / "operator.key")
    assert given == [keys] * 3
    missing = tmp_path / "no.key"
    for command in ("mkfs", "info", "fsck"):
        assert_refused(invoke(command, CLUSTER, "--keys", missing), "no.key")
    monkeypatch.setattr(mounts, "check_fuse_device", lambda: None)
    (tmp_path / "mnt").mkdir()
    assert_refused(invoke("mount", CLUSTER, tmp_path / "mnt", "--keys", missing), "no.key")


def test_mkfs_destroys_a_volume_only_when_forced(invoke: Invoke, cluster: ModelCluster) -> None:
    invoke("mkfs", CLUSTER)
    before = {node: bytes(memory) for node, memory in cluster.memory.items()}
    assert_refused(invoke("mkfs", CLUSTER), "--force")
    assert cluster.memory == before
    assert invoke("mkfs", CLUSTER, "--force").exit_code == 0


def test_a_cluster_without_a_volume_is_named(invoke: Invoke, cluster: ModelCluster) -> None:
    for command in ("info", "fsck"):
        assert_refused(invoke(command, CLUSTER), "sinfoniafs mkfs")


def test_a_damaged_volume_has_exit_code_4(invoke: Invoke, cluster: ModelCluster) -> None:
    invoke("mkfs", CLUSTER)
    layout = json.loads(invoke("info", CLUSTER, "--json").stdout)
    # The last byte of the first memory node's block map, and a few before: blocks marked as used.
    used = b"\x01" * 3
    start = cluster.memory[sinfonia.MemoryNodeId(0)].index(b"\x03" * 10)
    end = start + layout["blocks"] // 2
    cluster.memory[sinfonia.MemoryNodeId(0)][end : end + 3] = used
    result = invoke("fsck", CLUSTER)
    assert result.exit_code == 4
    assert "problems" in result.stdout


def test_a_size_that_is_none_is_refused(invoke: Invoke, cluster: ModelCluster) -> None:
    assert_refused(invoke("mkfs", CLUSTER, "--size-per-node", "many"), "many", code=2)
    assert_refused(invoke("mkfs", CLUSTER, "--size-per-node", "1TiB"), "8388608 bytes")
    assert_refused(invoke("mkfs", CLUSTER, "--size-per-node", "64KiB"), "at least")


def test_a_cluster_that_does_not_answer_is_named(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = functools.partial(sinfonia.connect, timeout=0.1)
    monkeypatch.setattr(cli_volume, "connect", impatient)
    assert_refused(invoke("info", "tcp://127.0.0.1:1"), "tcp://127.0.0.1:1", "is the cluster up")


@pytest.mark.parametrize("text", ["http://host:1", "tcp://", "tcp://host:1/a/b"])
def test_what_names_no_cluster_is_wrong_usage(invoke: Invoke, text: str) -> None:
    assert_refused(invoke("mkfs", text), text, code=2)


def test_a_directory_without_a_cluster_is_named(invoke: Invoke, tmp_path: Path) -> None:
    assert_refused(invoke("mkfs", tmp_path), str(tmp_path), "sinfonia up")


# Mounts


def test_a_mountpoint_must_be_an_empty_directory(invoke: Invoke, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert_refused(invoke("mount", CLUSTER, missing), "does not exist", f"mkdir -p {missing}")
    (tmp_path / "file").touch()
    assert_refused(invoke("mount", CLUSTER, tmp_path / "file"), "not a directory")
    assert_refused(invoke("mount", CLUSTER, tmp_path), "not empty", "-o nonempty")


def test_a_machine_without_fuse_is_told_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="modprobe fuse"):
        check_fuse_device(tmp_path / "fuse")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_user_without_access_to_the_device_is_told(tmp_path: Path) -> None:
    (tmp_path / "fuse").touch(mode=0)
    with pytest.raises(MountError, match="as root"):
        check_fuse_device(tmp_path / "fuse")


def test_what_is_not_mounted_cannot_be_unmounted(invoke: Invoke, tmp_path: Path) -> None:
    assert_refused(invoke("umount", tmp_path), str(tmp_path), "not a mounted SinfoniaFS")
    assert_refused(invoke("umount", tmp_path / "missing"), "not a mounted SinfoniaFS")


def test_an_unknown_mount_option_is_wrong_usage(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("mount", CLUSTER, tmp_path, "-o", "ro,fast")
    assert_refused(result, "'fast'", "volume=NAME", code=2)


def test_mount_options_of_fstab_are_understood() -> None:
    options = parse_mount_options("defaults,_netdev,nofail,ro,x-systemd.automount,volume=photos")
    assert (options.kernel, options.volume, options.nonempty) == ({"ro"}, "photos", False)
    options = parse_mount_options("noatime,nonempty,max_read=65536,log_file=/var/log/x,suid")
    assert options.kernel == {"max_read=65536", "suid"}
    assert (options.log_file, options.nonempty) == (Path("/var/log/x"), True)
    assert parse_mount_options("keys=/etc/alice.key").keys == Path("/etc/alice.key")
    options = parse_mount_options("timeout=2.5,session=60")
    assert (options.timeout, options.session) == (2.5, 60.0)
    assert (parse_mount_options("").timeout, parse_mount_options("").session) == (30.0, 30.0)
    for wrong in ("timeout=", "timeout=soon", "timeout=0", "session=nan", "session=0.5"):
        with pytest.raises(click.BadParameter, match="seconds"):
            parse_mount_options(wrong)
    with pytest.raises(click.BadParameter):
        parse_mount_options("volume=")


def test_the_mount_helper_takes_what_mount_gives_it(tmp_path: Path) -> None:
    arguments = [CLUSTER, str(tmp_path), "-f", "-n", "-s", "-v", "-t", "sinfoniafs", "-o", "rw"]
    assert CliRunner().invoke(mount_helper, arguments).exit_code == 0
    refused = CliRunner().invoke(mount_helper, [CLUSTER, str(tmp_path / "missing"), "-o", "rw"])
    assert_refused(refused, "does not exist")


def test_a_volume_is_named_by_cluster_and_name(tmp_path: Path) -> None:
    assert Source.parse("tcp://h:1/photos") == Source("tcp://h:1/photos", "tcp://h:1", "photos")
    assert Source.parse("tcp://h:1") == Source("tcp://h:1", "tcp://h:1", None)
    assert Source.parse(str(tmp_path)) == Source(str(tmp_path), str(tmp_path), None)
    assert Source.parse("h:1").endpoint() == "tcp://h:1"


@pytest.mark.parametrize("command", ["mkfs", "mount", "umount", "info", "fsck"])
def test_every_command_explains_itself(invoke: Invoke, command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f" {command} [OPTIONS]" in result.stdout


def test_a_record_counts_only_while_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "run_directory", lambda: tmp_path / "run")
    with mounts.recorded(tmp_path, CLUSTER, "default"):
        record = mounts.read_record(tmp_path)
        assert record is not None
        assert (record.process.pid, record.source) == (os.getpid(), CLUSTER)
        (file,) = (tmp_path / "run").iterdir()
        left_behind = file.read_text().replace(str(record.process.start_time), "1")
    assert mounts.read_record(tmp_path) is None
    assert not list((tmp_path / "run").iterdir())
    file.write_text(left_behind)
    assert mounts.read_record(tmp_path) is None
