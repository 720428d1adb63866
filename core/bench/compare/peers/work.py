"""The work that is compared: three compares, three reads and three writes of 8 bytes, atomically.

There are three tables of WORDS words each, one for each kind of item, and every item takes a word
of its table at random.  Compares always succeed, since nothing writes to their table; so each
system does all nine things each time.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from sinfonia.client.api import ClusterApi
from sinfonia.client.blocking import BlockingCluster
from sinfonia.minitransaction import CompareItem, Minitransaction, ReadItem, WriteItem
from sinfonia.protocol.messages import PROTOCOL_VERSION, ExecCommit, Replies, Requests, Vote, Voted
from sinfonia.transport.codec import encode_replies, encode_requests

WORD = 8
WORDS = 8192
ITEMS = 3  # of each kind

EXPECTED = b"expected"
FOUND = b"what was"
WRITTEN = b"sinfonia"

# Where the tables are on a memory node.
COMPARES = 0
READS = WORDS * WORD
WRITES = 2 * WORDS * WORD
CAPACITY = 3 * WORDS * WORD

# So many different pieces of work are drawn beforehand; then they come round again.
PIECES = 4096

SEED = 1


class Piece(NamedTuple):
    """The numbers of the words that one step takes from each table."""

    compares: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]


def pieces() -> list[Piece]:
    """What is done, the same every time."""
    rng = random.Random(SEED)
    draw = range(WORDS)
    return [Piece(*(tuple(rng.sample(draw, ITEMS)) for _ in range(3))) for _ in range(PIECES)]


def build(cluster: "ClusterApi | BlockingCluster", piece: Piece) -> Minitransaction[Any]:
    """``piece`` as a minitransaction, as an application would build it."""
    minitransaction: Minitransaction[Any] = cluster.minitransaction()
    compare, read, write = minitransaction.compare, minitransaction.read, minitransaction.write
    for word in piece.compares:
        compare(0, COMPARES + word * WORD, EXPECTED)
    for word in piece.reads:
        read(0, READS + word * WORD, WORD)
    for word in piece.writes:
        write(0, WRITES + word * WORD, WRITTEN)
    return minitransaction


def stream(
    cluster: "ClusterApi | BlockingCluster", *, prepared: bool
) -> Iterator[Minitransaction[Any]]:
    """Minitransactions without end, each built anew or all beforehand."""
    work = pieces()
    if prepared:
        yield from itertools.cycle([build(cluster, piece) for piece in work])
    for piece in itertools.cycle(work):
        yield build(cluster, piece)


def fill(cluster: BlockingCluster) -> None:
    """Put there what is compared and read."""
    cluster.write(0, COMPARES, EXPECTED * WORDS)
    cluster.write(0, READS, FOUND * WORDS)


def message_bytes() -> tuple[int, int]:
    """Bytes of the request and of the reply of one such minitransaction."""
    far = CAPACITY - WORD
    execute = ExecCommit(
        counter=2**20,
        epoch=1,
        compares=[CompareItem(far, EXPECTED)] * ITEMS,
        reads=[ReadItem(far, WORD)] * ITEMS,
        writes=[WriteItem(far, WRITTEN)] * ITEMS,
    )
    request = Requests(PROTOCOL_VERSION, 2**63, 2**32, 2**20, [execute], node=0)
    reply = Replies(PROTOCOL_VERSION, 0, 2**32, 1, [Voted(2**20, Vote.OK, [FOUND] * ITEMS)])
    return len(encode_requests(request)[0]), len(encode_replies(reply)[0])
