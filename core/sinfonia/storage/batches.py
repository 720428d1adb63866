"""Encoded records are cut and joined as they are, never encoded a second time.

So the bytes in the log of a replica are those that its primary wrote, also where the two programs
are of different versions.
"""

from collections.abc import Iterator, Sequence

import msgspec

from sinfonia.protocol.identifiers import Seq
from sinfonia.protocol.records import Batch, array_header

_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


def cut_batch(batch: Batch, last: Seq) -> tuple[Batch, Batch]:
    """The records of ``batch`` up to ``last``, which must lie in it, and those after it."""
    count = last - batch.first + 1
    assert 0 < count <= batch.count
    if count == batch.count:
        return batch, Batch(last + 1, 0, b"")
    length = sum(map(len, _sizes(batch, count)))
    head = Batch(batch.first, count, batch.body[:length])
    return head, Batch(last + 1, batch.count - count, batch.body[length:])


def head_of_batch(batch: Batch, bytes_max: int) -> Batch:
    """As many records of ``batch`` as ``bytes_max`` has room for, but at least one."""
    if len(batch.body) <= bytes_max:
        return batch
    count = length = 0
    for record in _sizes(batch, batch.count):
        if count and length + len(record) > bytes_max:
            break
        count += 1
        length += len(record)
    return Batch(batch.first, count, batch.body[:length])


def split_batch(batch: Batch, bytes_max: int) -> list[Batch]:
    """The records of ``batch`` in pieces, each as ``head_of_batch`` would take it."""
    pieces: list[Batch] = []
    first, begin, count, length = batch.first, 0, 0, 0
    for record in _sizes(batch, batch.count):
        if count and length + len(record) > bytes_max:
            pieces.append(Batch(first, count, batch.body[begin : begin + length]))
            first, begin, count, length = first + count, begin + length, 0, 0
        count += 1
        length += len(record)
    return [*pieces, Batch(first, count, batch.body[begin:])]


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Batches that follow one another, as one."""
    if len(batches) == 1:
        return batches[0]
    body = b"".join([batch.body for batch in batches])
    return Batch(batches[0].first, sum(batch.count for batch in batches), body)


def take_batches(batches: Iterator[Batch], after: Seq, bytes_max: int) -> Batch:
    """The records after ``after``, at least one if there is any.

    ``batches`` follow one another; the first of them may begin earlier.
    """
    taken: list[Batch] = []
    room = bytes_max
    for found in batches:
        batch = found if found.first > after else cut_batch(found, after)[1]
        if taken and len(batch.body) > room:
            break
        taken.append(head_of_batch(batch, room))
        room -= len(taken[-1].body)
        if taken[-1].count < batch.count:
            break
    return join_batches(taken) if taken else Batch(after + 1, 0, b"")


def _sizes(batch: Batch, count: int) -> Sequence[msgspec.Raw]:
    """The first ``count`` records, each as it is encoded."""
    return _decoder.decode(array_header(batch.count) + batch.body)[:count]
