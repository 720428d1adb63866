"""Random minitransactions that get in each other's way.

All of them touch a few hot bytes of every memory node, so that conflicts are the rule.  What they
write is unique where it is wide enough, so that whoever reads it knows who wrote it; what they
compare is what their client believes to be there, which often enough is still true.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.storage.address_space import CHUNK_BYTES
from sinfonia.testing.history import Extent, Found, Located

# The hot bytes lie across a border of the chunks in which memory is copied, and so of pages of
# whatever size up to that.
HOT_START = CHUNK_BYTES - 32
HOT_BYTES = 64
WORD_BYTES = 8
WORD_LENGTHS = (1, 2, 4, 8, 8, 8)
CAPACITY = 2 * CHUNK_BYTES

# Beside them, one place that is written as a whole and takes several sectors of a redo log.
WIDE_START = 1024
WIDE_BYTES = 2000


class Beliefs:
    """What a client last saw in the hot bytes; often out of date."""

    def __init__(self, nodes: Sequence[MemoryNodeId]) -> None:
        self._bytes = {node: bytearray(HOT_BYTES) for node in nodes}

    def __getitem__(self, extent: Extent) -> bytes:
        start = extent.address - HOT_START
        return bytes(self._bytes[extent.node][start : start + extent.length])

    def learn(self, node: MemoryNodeId, address: int, data: bytes) -> None:
        """``data`` was seen at ``address`` of ``node``."""
        start = address - HOT_START
        if start < 0:
            return  # nobody compares the wide place
        self._bytes[node][start : start + len(data)] = data

    def learn_from(self, minitransaction: Minitransaction[Any], result: Result) -> None:
        """Take over all that the reply shows."""
        for extent, value in zip(read_items(minitransaction), result.reads, strict=False):
            self.learn(extent.node, extent.address, value)
        for failed in result.failed_compares:
            self.learn(failed.node, failed.address, failed.found)
        if result.committed:
            for item in write_items(minitransaction):
                self.learn(*item)


Kind = Callable[[Minitransaction[Any], Beliefs], None]


class Workload:
    """Chooses minitransactions; ``words`` are the places that most of them name.

    ``kinds`` are those to choose from; none means all.
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
        }
        self._kinds = [every[kind] for kind in kinds or every]

    def fill(
        self, minitransaction: Minitransaction[Any], beliefs: Beliefs, *, only_reads: bool = False
    ) -> None:
        """Add the items of a random kind of minitransaction."""
        if only_reads:
            self._read_many(minitransaction, beliefs)
        else:
            self._rng.choice(self._kinds)(minitransaction, beliefs)

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
        value = self._written % (256**unit - 1) + 1  # never zeros, which nobody wrote
        data = value.to_bytes(unit) * (extent.length // unit + 1)
        minitransaction.write(extent.node, extent.address, data[: extent.length])


def compare_items(minitransaction: Minitransaction[Any]) -> tuple[Located, ...]:
    """The compare items in order of addition."""
    found = []
    for node, position in minitransaction.compare_places:
        item = minitransaction.items[node].compares[position]
        found.append(Located(node, item.address, item.expected))
    return tuple(found)


def read_items(minitransaction: Minitransaction[Any]) -> tuple[Extent, ...]:
    """The read items in order of addition."""
    found = []
    for node, position in minitransaction.read_places:
        item = minitransaction.items[node].reads[position]
        found.append(Extent(node, item.address, item.length))
    return tuple(found)


def write_items(minitransaction: Minitransaction[Any]) -> tuple[Located, ...]:
    """The write items, those of one memory node in order of addition."""
    return tuple(
        Located(node, item.address, item.data)
        for node, items in minitransaction.items.items()
        for item in items.writes
    )


def failed_items(result: Result) -> tuple[Found, ...]:
    """The compare items that did not match."""
    return tuple(Found(failed.index, failed.found) for failed in result.failed_compares)
