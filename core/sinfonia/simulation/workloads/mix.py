"""Random minitransactions that get in each other's way.

All of them touch a few hot bytes of every memory node, or its small ring, so that conflicts are the
rule.  What they write is unique where it is wide enough, and so is what an add leaves behind, so
that a value that is read tells which minitransaction wrote it; what they compare is what their
client believes to be there, which often enough is still true.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.checking.asked_and_told import (
    PAYLOAD_BYTES,
    RING,
    answers,
    read_items,
    update_items,
    write_items,
)
from sinfonia.checking.history import Added, Extent
from sinfonia.minitransaction import WIDTHS, Minitransaction, Relation, Result
from sinfonia.rings import HEADER_BYTES, TAIL_OFFSET, TRIMMED_OFFSET, RingHeader
from sinfonia.storage.address_space import CHUNK_BYTES

# The hot bytes lie across a border of the chunks in which memory is copied, and so of pages of
# whatever size up to that.
HOT_START = CHUNK_BYTES - 32
HOT_BYTES = 64
WORD_BYTES = 8
WORD_LENGTHS = (1, 2, 4, 8, 8, 8)

# Beside them, one place that is written as a whole and takes several sectors of a redo log.
WIDE_START = 1024
WIDE_BYTES = 2000

# And a ring that is full all the time.
RING_START = 512
RING_BYTES = RING.byte_count
COUNT_BYTES = 8

# In some runs only: a place of hundreds of KiB, read and written in pieces of a few sizes.
LARGE_START = CHUNK_BYTES + 4096
LARGE_PIECE_BYTES = 48 * 1024
LARGE_PIECES = 5
LARGE_BYTES = LARGE_PIECES * LARGE_PIECE_BYTES

# Places that clients have beliefs about: where they begin, and how long they are.
BELIEVED = ((HOT_START, HOT_BYTES), (RING_START, HEADER_BYTES))

# Where only some kinds of minitransactions are chosen from: how often one of RICH is taken instead.
RICH_SHARE = 0.15
# Chosen only where it is named.
LARGE_KIND = "large_swap"

RICH = ("add", "add_apart", "conditional", "append", "append_apart", "trim", "read_slot")


class Beliefs:
    """What a client last saw in the hot bytes and of rings; often out of date."""

    def __init__(self, nodes: Sequence[MemoryNodeId]) -> None:
        self._bytes = {
            (node, start): bytearray(length) for node in nodes for start, length in BELIEVED
        }

    def __getitem__(self, extent: Extent) -> bytes:
        for start, length in BELIEVED:
            at = extent.address - start
            if 0 <= at < length:
                return bytes(self._bytes[extent.node, start][at : at + extent.length])
        raise KeyError(extent)

    def integer(self, extent: Extent) -> int:
        """What is believed there, as an integer."""
        return int.from_bytes(self[extent], "little")

    def ring(self, node: MemoryNodeId) -> RingHeader:
        """What the header of its ring is believed to say."""
        return RingHeader.decode(bytes(self._bytes[node, RING_START]))

    def learn(self, node: MemoryNodeId, address: int, data: bytes) -> None:
        """``data`` was seen at ``address`` of ``node``."""
        for start, length in BELIEVED:
            at = address - start
            if 0 <= at < length:
                self._bytes[node, start][at : at + len(data)] = data[: length - at]

    def learn_from(self, minitransaction: Minitransaction[Any], result: Result) -> None:
        """Take over all that the reply shows."""
        for extent, value in zip(read_items(minitransaction), result.reads, strict=False):
            self.learn(extent.node, extent.address, value)
        for failed in result.failed_compares:
            self.learn(failed.node, failed.address, failed.found)
        if not result.committed:
            return
        for item in write_items(minitransaction):
            self.learn(*item)
        updates = update_items(minitransaction)
        for update, answer in zip(updates, answers(minitransaction, result), strict=True):
            if isinstance(update, Added):
                new = (answer + update.delta) % 256**update.width
                self.learn(update.node, update.address, new.to_bytes(update.width, "little"))
            else:
                tail = (answer + 1).to_bytes(COUNT_BYTES, "little")
                self.learn(update.node, update.address + TAIL_OFFSET, tail)


Kind = Callable[[Minitransaction[Any], Beliefs], None]


class Mix:
    """Chooses minitransactions; ``words`` are the places that most of them name.

    ``kinds`` are those to choose from, most of the time; none means all.
    """

    def __init__(
        self,
        rng: random.Random,
        nodes: Sequence[MemoryNodeId],
        *,
        words_per_node: int,
        kinds: Sequence[str] = (),
    ) -> None:
        self._rng = rng
        self._nodes = nodes
        self._written = 0
        self.words = [
            Extent(node, HOT_START + WORD_BYTES * slot, rng.choice(WORD_LENGTHS))
            for node in nodes
            for slot in rng.sample(range(HOT_BYTES // WORD_BYTES), words_per_node)
        ]
        every: dict[str, Kind] = {
            "blind_write": self._blind_write,
            "read_many": self._read_many,
            "compare_and_swap": self._compare_and_swap,
            "swap": self._swap,
            "transfer": self._transfer,
            "validate": self._validate,
            "guarded_write": self._guarded_write,
            "overlapping": self._overlapping,
            "wide_swap": self._wide_swap,
            "add": self._add,
            "add_apart": self._add_apart,
            "conditional": self._conditional,
            "append": self._append,
            "append_apart": self._append_apart,
            "trim": self._trim,
            "read_slot": self._read_slot,
        }
        self.large = LARGE_KIND in kinds
        named = every | {LARGE_KIND: self._large_swap}
        self._kinds = [named[kind] for kind in kinds or every]
        # Nothing is apart where there is only one memory node.
        alone = len(nodes) == 1
        self._rich = [every[kind] for kind in RICH if not (alone and kind.endswith("apart"))]
        self._rich_share = RICH_SHARE if kinds and not set(kinds) & set(RICH) else 0.0

    def fill(
        self, minitransaction: Minitransaction[Any], beliefs: Beliefs, *, only_reads: bool = False
    ) -> None:
        """Add the items of a random kind of minitransaction."""
        if only_reads:
            self._read_many(minitransaction, beliefs)
            return
        rich = self._rich_share and self._rng.random() < self._rich_share
        self._rng.choice(self._rich if rich else self._kinds)(minitransaction, beliefs)

    def _blind_write(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        del beliefs
        for word in self._some_words(1, 3):
            self._write(minitransaction, word)

    def _read_many(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        del beliefs
        for word in self._some_words(2, 4):
            minitransaction.read(*word)

    def _compare_and_swap(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        for word in self._some_words(1, 2):
            minitransaction.compare(word.node, word.address, beliefs[word])
            self._write(minitransaction, word)

    def _swap(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        del beliefs
        for word in self._some_words(1, 2):
            minitransaction.read(*word)
            self._write(minitransaction, word)

    def _transfer(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        for word in self._words_apart():
            minitransaction.compare(word.node, word.address, beliefs[word])
            minitransaction.read(*word)
            self._write(minitransaction, word)

    def _validate(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        for word in self._some_words(1, 3):
            minitransaction.compare(word.node, word.address, beliefs[word])

    def _guarded_write(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Look at one memory node, write at another."""
        looked_at, written = self._words_apart()
        if self._rng.random() < 0.5:
            minitransaction.read(*looked_at)
        else:
            minitransaction.compare(looked_at.node, looked_at.address, beliefs[looked_at])
        self._write(minitransaction, written)

    def _overlapping(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Items of any size that lie over words and over each other."""
        for node in self._rng.sample(self._nodes, self._rng.randint(1, 2)):
            for _ in range(self._rng.randint(1, 3)):
                start = self._rng.randrange(HOT_BYTES - 2 * WORD_BYTES)
                extent = Extent(node, HOT_START + start, self._rng.randint(1, 2 * WORD_BYTES))
                match self._rng.randrange(3):
                    case 0:
                        minitransaction.compare(node, extent.address, beliefs[extent])
                    case 1:
                        minitransaction.read(*extent)
                    case _:
                        self._write(minitransaction, extent)

    def _wide_swap(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Read and write more than a disk writes at once."""
        del beliefs
        extent = Extent(self._rng.choice(self._nodes), WIDE_START, WIDE_BYTES)
        minitransaction.read(*extent)
        self._write(minitransaction, extent)

    def _large_swap(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Read and write pieces of the large place, at one memory node or at two."""
        del beliefs
        for node in self._rng.sample(self._nodes, self._rng.randint(1, min(2, len(self._nodes)))):
            first = self._rng.randrange(LARGE_PIECES)
            pieces = self._rng.randint(1, LARGE_PIECES - first)
            start = LARGE_START + first * LARGE_PIECE_BYTES
            extent = Extent(node, start, pieces * LARGE_PIECE_BYTES)
            if self._rng.random() < 0.5:
                minitransaction.read(*extent)
            self._write(minitransaction, extent)

    def _add(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Add to words, some of which are read, compared, written or added to as well."""
        for word in self._some_words(1, 2):
            self._add_to(minitransaction, word)
            match self._rng.randrange(8):
                case 0:
                    minitransaction.read(*word)
                case 1:
                    minitransaction.compare(word.node, word.address, beliefs[word])
                case 2:
                    self._write(minitransaction, word)
                case 3:
                    narrow = self._rng.choice([each for each in WIDTHS if each <= word.length])
                    self._add_to(minitransaction, Extent(word.node, word.address, narrow))

    def _add_apart(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        del beliefs
        for word in self._words_apart():
            self._add_to(minitransaction, word)

    def _conditional(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Write or add where, or beside where, a condition holds."""
        rng = self._rng
        for word in self._some_words(1, 2):
            limit = 256**word.length
            mask = rng.randrange(limit) if rng.random() < 0.4 else None
            operand = beliefs.integer(word) & (limit - 1 if mask is None else mask)
            if rng.random() < 0.5:
                operand = max(0, min(limit - 1, operand + rng.choice((-1, 1))))
            minitransaction.check(
                word.node,
                word.address,
                rng.choice(list(Relation)),
                operand,
                width=word.length,
                mask=mask,
            )
            changed = word if rng.random() < 0.7 else rng.choice(self.words)
            if rng.random() < 0.7:
                self._write(minitransaction, changed)
            else:
                self._add_to(minitransaction, changed)

    def _append(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Append to a ring, and perhaps write over it, trim it or add elsewhere in the same."""
        rng = self._rng
        node = rng.choice(self._nodes)
        ring = self._append_to(minitransaction, beliefs, node)
        if rng.random() < 0.2:
            self._append_to(minitransaction, beliefs, node)
        match rng.randrange(6):
            case 0:
                minitransaction.read(node, RING_START, HEADER_BYTES)
            case 1:
                slot = Extent(node, RING_START + RING.place(ring.tail), RING.slot_bytes)
                self._write(minitransaction, slot)
            case 2 if ring.tail > ring.trimmed:
                self._trim_to(minitransaction, beliefs, node, ring.tail)
            case 3:
                self._add_to(minitransaction, rng.choice(self.words))

    def _append_apart(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Append at one memory node and add at another."""
        node = self._rng.choice(self._nodes)
        self._append_to(minitransaction, beliefs, node)
        self._add_to(
            minitransaction, self._rng.choice([each for each in self.words if each.node != node])
        )

    def _read_slot(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Read where something was appended or will be."""
        node = self._rng.choice(self._nodes)
        ring = beliefs.ring(node)
        place = RING.place(self._rng.randint(*sorted((ring.trimmed, ring.tail))))
        minitransaction.read(node, RING_START + place, RING.slot_bytes)

    def _trim(self, minitransaction: Minitransaction[Any], beliefs: Beliefs) -> None:
        """Read a ring, and make room in it."""
        rng = self._rng
        node = rng.choice(self._nodes)
        ring = beliefs.ring(node)
        if ring.tail <= ring.trimmed or rng.random() < 0.2:
            minitransaction.read(node, RING_START, RING_BYTES)
        elif rng.random() < 0.5:
            self._trim_to(minitransaction, beliefs, node, rng.randint(ring.trimmed + 1, ring.tail))
        else:
            minitransaction.check(node, RING_START + TRIMMED_OFFSET, Relation.LESS, ring.tail)
            minitransaction.add(node, RING_START + TRIMMED_OFFSET, 1)

    def _append_to(
        self, minitransaction: Minitransaction[Any], beliefs: Beliefs, node: MemoryNodeId
    ) -> RingHeader:
        """Append to its ring; if there is none yet, make it in the same."""
        ring = beliefs.ring(node)
        if not ring.slots:
            ring = RING
            items = minitransaction.items.get(node)
            if items is None or not items.updates:
                nothing = beliefs[Extent(node, RING_START, HEADER_BYTES)]
                minitransaction.compare(node, RING_START, nothing)
                minitransaction.write(node, RING_START, RING.encode())
        self._written += 1
        data = self._written.to_bytes(self._rng.choice(PAYLOAD_BYTES), "little")
        minitransaction.append(node, RING_START, data)
        return ring

    def _trim_to(
        self,
        minitransaction: Minitransaction[Any],
        beliefs: Beliefs,
        node: MemoryNodeId,
        position: int,
    ) -> None:
        extent = Extent(node, RING_START + TRIMMED_OFFSET, COUNT_BYTES)
        minitransaction.compare(node, extent.address, beliefs[extent])
        minitransaction.write(node, extent.address, position.to_bytes(COUNT_BYTES, "little"))

    def _add_to(self, minitransaction: Minitransaction[Any], word: Extent) -> None:
        # Of any size, so that sums are unique, and half of them wrap.
        delta = self._rng.randrange(1, 256**word.length)
        minitransaction.add(word.node, word.address, delta, width=word.length)

    def _some_words(self, least: int, most: int) -> list[Extent]:
        return self._rng.sample(self.words, min(self._rng.randint(least, most), len(self.words)))

    def _words_apart(self) -> tuple[Extent, Extent]:
        """A word of one memory node and one of another."""
        one = self._rng.choice(self.words)
        other = self._rng.choice([word for word in self.words if word.node != one.node])
        return one, other

    def _write(self, minitransaction: Minitransaction[Any], extent: Extent) -> None:
        self._written += 1
        unit = min(extent.length, WORD_BYTES)
        value = self._written % (256**unit - 1) + 1  # never zeros, which are there at the start
        data = value.to_bytes(unit) * (extent.length // unit + 1)
        minitransaction.write(extent.node, extent.address, data[: extent.length])
