"""etcd: a Txn does the work, and prepared gRPC calls drive it.

Debian has no load generator for etcd (its etcdctl measures only puts, at a fixed rate), and the
JSON gateway would cost etcd more than the work.  So calls are encoded beforehand (http2.py), which
costs a client less than any of etcd's own would.
"""

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.compare.peers.http2 import Connection, call_frames
from bench.compare.peers.programs import cpu_seconds, find_programs
from bench.compare.peers.redis_server import Driven
from bench.compare.peers.work import EXPECTED, FOUND, WORDS, WRITTEN, Piece, pieces
from sinfonia.errors import ProtocolError
from sinfonia.operating.local_cluster import LOOPBACK
from sinfonia.operating.measuring.benchmark import Latencies
from sinfonia.testing.etcd_server import Etcd

TXN = "/etcdserverpb.KV/Txn"

# etcd takes no more operations in one Txn.
FILL_AT_ONCE = 128

# Field numbers of etcd's rpc.proto, with their wire type: (number << 3) | 2 for bytes.
_COMPARE, _SUCCESS = b"\x0a", b"\x12"
_TARGET_VALUE = b"\x10\x03"  # Compare.target = VALUE; Compare.result = EQUAL is the default
_COMPARE_KEY, _COMPARE_VALUE = b"\x1a", b"\x3a"
_RANGE, _PUT = b"\x0a", b"\x12"
_KEY, _PUT_VALUE = b"\x0a", b"\x12"
_RESPONSE_HEADER, _SUCCEEDED = 0x0A, b"\x10\x01"


def txn(piece: Piece) -> bytes:
    """``piece`` as a TxnRequest."""
    compares = (
        _TARGET_VALUE + _field(_COMPARE_KEY, _key("c", word)) + _field(_COMPARE_VALUE, EXPECTED)
        for word in piece.compares
    )
    reads = (_field(_RANGE, _field(_KEY, _key("r", word))) for word in piece.reads)
    puts = (_put("w", word, WRITTEN) for word in piece.writes)
    return b"".join(
        [
            *(_field(_COMPARE, compare) for compare in compares),
            *(_field(_SUCCESS, operation) for operation in itertools.chain(reads, puts)),
        ]
    )


def succeeded(answer: bytes) -> bool:
    """Whether the compares of a TxnResponse matched."""
    if len(answer) < 2 or answer[0] != _RESPONSE_HEADER:
        return False
    end = 2 + answer[1]  # the header is shorter than 128 bytes
    return answer[end : end + len(_SUCCEEDED)] == _SUCCEEDED


class EtcdLoad:
    """An etcd that is filled, and what drives it."""

    def __init__(self, server: Etcd) -> None:
        """Raises SinfoniaError if it does not do the work."""
        self._pid = server.pid()
        port = int(server.endpoints[0].rpartition(":")[2])
        authority = f"{LOOPBACK}:{port}"
        self._connection = Connection(LOOPBACK, port)
        fill = [
            b"".join(_field(_SUCCESS, _put(table, word, value)) for word in words)
            for table, value in (("c", EXPECTED), ("r", FOUND))
            for words in _portions()
        ]
        self._run([call_frames(TXN, authority, message) for message in fill], in_flight=1)
        self._calls = [call_frames(TXN, authority, txn(piece)) for piece in pieces()]

    def drive(self, *, in_flight: int, seconds: float) -> Driven:
        """Keep ``in_flight`` Txns under way.  Raises SinfoniaError."""
        before = cpu_seconds(self._pid), time.process_time()
        started = time.perf_counter()
        calls = self._until(itertools.cycle(self._calls), started + seconds)
        latencies = self._run(calls, in_flight=in_flight)
        elapsed = time.perf_counter() - started
        number = len(latencies)
        return Driven(
            number / elapsed,
            latencies.percentile_us(50),
            latencies.percentile_us(99),
            (cpu_seconds(self._pid) - before[0]) / number * 1e6,
            (time.process_time() - before[1]) / number * 1e6,
        )

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    @staticmethod
    def _until(calls: Iterator[bytes], end: float) -> Iterator[bytes]:
        while time.perf_counter() < end:
            yield next(calls)

    def _run(self, calls: Iterable[bytes], *, in_flight: int) -> Latencies:
        """Make ``calls``, at most ``in_flight`` at a time.  Raises SinfoniaError."""
        latencies = Latencies()
        connection, left = self._connection, iter(calls)
        begun: dict[int, float] = {}
        while True:
            room = in_flight - len(begun)
            numbers = connection.send(list(itertools.islice(left, room)))
            begun.update(dict.fromkeys(numbers, time.perf_counter()))
            if not begun:
                return latencies
            for stream, answer in connection.answers():
                if not succeeded(answer):
                    raise ProtocolError("etcd does not do the work that is to be compared")
                latencies.add(time.perf_counter() - begun.pop(stream))


@contextmanager
def running_etcd_load(directory: Path) -> Iterator[EtcdLoad]:
    """One etcd with its own settings, its files in ``directory``.  Raises ConfigError."""
    find_programs("etcd")
    directory.mkdir()
    server = Etcd(directory, members=1)
    try:
        server.start()
        load = EtcdLoad(server)
        try:
            yield load
        finally:
            load.close()
    finally:
        server.kill()


def _portions() -> Iterator[range]:
    for first in range(0, WORDS, FILL_AT_ONCE):
        yield range(first, first + FILL_AT_ONCE)


def _put(table: str, word: int, value: bytes) -> bytes:
    """A RequestOp."""
    return _field(_PUT, _field(_KEY, _key(table, word)) + _field(_PUT_VALUE, value))


def _key(table: str, word: int) -> bytes:
    return b"%s%012d" % (table.encode(), word)


def _field(tag: bytes, value: bytes) -> bytes:
    """A field of protobuf; no value is as long as 2^14 bytes."""
    length = len(value)
    if length < 0x80:
        return tag + bytes([length]) + value
    return tag + bytes([0x80 | length & 0x7F, length >> 7]) + value
