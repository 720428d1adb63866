"""`sinfonia log` shows what is in a redo log, and how far a damaged one can be read."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.main import main
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.records import Decided, OnePhase, Prepared, Stamp
from sinfonia.storage.data_directory import DataDirectory
from sinfonia.storage.files import SECTOR_BYTES, OsFiles
from sinfonia.storage.log_blocks import Lsn, segment_name
from sinfonia.storage.stable_storage import open_stable_storage

TID = Tid(3, 7, 12)
NODES = [MemoryNodeId(0), MemoryNodeId(4)]


def make(data: Path, log: Path | None = None, mode: str = "LOG-REPL") -> None:
    """Four blocks, two lives."""
    files = OsFiles(data, log_directory=log)
    owner = DataDirectory.create_or_open(
        files, node=MemoryNodeId(4), capacity=4096, mode=mode, new_identity="me"
    )
    storage = open_stable_storage(files, identity=owner.identity, capacity=4096)
    for incarnation in (2, 9):
        storage.log.begin_life(incarnation)
        storage.log.append(OnePhase(7, 3, incarnation, 0, [WriteItem(64, b"hello")]))
        storage.log.append(Stamp(1_800_000_000_000_000 + incarnation))
        storage.log.sync()
        storage.log.append(Prepared(TID, 0, NODES, [], []))
        storage.log.append(Decided(TID, True))
        storage.log.sync()
    storage.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["log", *arguments])


def test_records_are_shown_with_numbers_lives_and_times(tmp_path: Path) -> None:
    make(tmp_path)
    result = run(str(tmp_path))
    assert result.exit_code == 0
    lines = [line.split(maxsplit=2) for line in result.output.splitlines()]
    assert [line[0] for line in lines] == ["---", "1", "2", "3", "4", "---", "5", "6", "7", "8"]
    assert lines[0][2] == "2, from record 1 on"
    assert lines[1][1:] == ["OnePhase", f"{Tid(3, 7, 2)} 64=text:hello"]
    assert lines[2][1:] == ["Stamp", "2027-01-15T08:00:00.000002+00:00"]
    assert lines[3][2].strip() == f"{TID} participants [0, 4]"
    assert lines[4][2] == f"{TID} commit"
    assert lines[5][2] == "9, from record 5 on"


def test_json_has_all_of_a_record(tmp_path: Path) -> None:
    make(tmp_path)
    lines = [json.loads(line) for line in run(str(tmp_path), "--json").output.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, 9))
    assert [line["incarnation"] for line in lines] == [2] * 4 + [9] * 4
    assert [line["lsn"] for line in lines] == [
        block * SECTOR_BYTES for block in (1, 1, 2, 2, 3, 3, 4, 4)
    ]
    assert lines[1]["clock"] == 1_800_000_000_000_002


def test_a_summary_says_from_when_to_when(tmp_path: Path) -> None:
    make(tmp_path)
    summary = json.loads(run(str(tmp_path), "--summary", "--json").output)
    assert (summary["node"], summary["first_seq"], summary["last_seq"]) == (4, 1, 8)
    assert summary["lives"] == [{"incarnation": 2, "first": 1}, {"incarnation": 9, "first": 5}]
    assert summary["last_stamp"] - summary["first_stamp"] == 7
    text = run(str(tmp_path), "--summary").output
    assert "2 from 1 on, 9 from 5 on" in text
    assert "2027-01-15T08:00:00.000009" in text


def test_an_empty_log_has_nothing_to_show(tmp_path: Path) -> None:
    files = OsFiles(tmp_path)
    DataDirectory.create_or_open(
        files, node=MemoryNodeId(0), capacity=4096, mode="LOG", new_identity="me"
    )
    open_stable_storage(files, identity="me", capacity=4096).close()
    assert run(str(tmp_path)).output == ""
    assert "last seq:       none" in run(str(tmp_path), "--summary").output


def test_what_comes_before_the_damage_is_shown(tmp_path: Path) -> None:
    make(tmp_path)
    segment = tmp_path / segment_name(Lsn(0))
    content = bytearray(segment.read_bytes())
    content[2 * SECTOR_BYTES + 60] ^= 1
    segment.write_bytes(content)
    result = run(str(tmp_path))
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1 + 4 + 1
    assert f"is damaged at byte {2 * SECTOR_BYTES}" in result.output


def test_a_log_in_a_directory_of_its_own_is_found_where_it_is_said_to_be(tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    data.mkdir()
    log.mkdir()
    make(data, log, "NVRAM")
    assert "no redo log in this data directory" in run(str(data)).output
    assert len(run(str(data), "--log-directory", str(log), "--json").output.splitlines()) == 8


def test_a_memory_node_in_ram_has_no_log_to_show(tmp_path: Path) -> None:
    DataDirectory.create_or_open(
        OsFiles(tmp_path), node=MemoryNodeId(0), capacity=4096, mode="RAM-REPL", new_identity="me"
    )
    assert "is in mode RAM-REPL: it has no redo log" in run(str(tmp_path)).output
