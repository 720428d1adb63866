"""A step that no other can have seen needs no place in the order.

A minitransaction of unknown outcome matters only if it may have set what some other that matters
has seen.  For a write that is plain: these very bytes were seen, or a condition or an update
inspected the place, with a result that depends on what was there.  An add of unknown outcome is
part of a sum: it matters if what was seen is a *base* (what is there at the start, or was written)
plus the deltas of some adds, of which it is one.  Most sums of wide integers that can be thought of
were never seen by any step.

That holds for a word that is always written as a whole; of one that others overlap in part, all
that touches it is kept, and so it is where there are too many sums to try.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from sinfonia.checking.serializability.search import Step

# Sums of one word to try each time; a hundredth of a second.
SUMS_MAX = 16 * 1024

Word = tuple[int, ...]  # its cells, the lowest bytes first


def relevant(
    steps: Sequence[Step], state: Sequence[int], bytes_of: Callable[[int], bytes]
) -> list[Step]:
    """The definite ones of ``steps``, and the possible ones that they see, or that those see in
    turn, each with what it ``may_set``; ``state`` are the tokens at the start."""
    return _Relevance(steps, state, bytes_of).find()


class _Relevance:
    """Which steps are kept, and what these have seen."""

    def __init__(
        self, steps: Sequence[Step], state: Sequence[int], bytes_of: Callable[[int], bytes]
    ) -> None:
        self._steps = steps
        self._state = state
        self._bytes_of = bytes_of
        self._kept = [step.definite for step in steps]
        self._words = self._whole_words()
        self._cells = {cell for word in self._words for cell in word}
        self._seen: dict[int, set[int]] = {}  # tokens by cell
        self._inspected: set[int] = set()
        # Of tokens that were seen: the steps whose adds may have led to it.
        self._adders: dict[int, set[int]] = {}

    def find(self) -> list[Step]:
        """The steps that are kept, in their order."""
        fresh = [step for step in self._steps if step.definite]
        while fresh:
            for step in fresh:
                self._inspected.update(step.inspects)
                for word, _ in step.adds:
                    if word not in self._words:
                        self._inspected.update(word)
                for cell, token in step.needs:
                    self._seen.setdefault(cell, set()).add(token)
            part_of_sums = self._part_of_sums()
            fresh = []
            for index, step in enumerate(self._steps):
                if not self._kept[index] and (index in part_of_sums or self._matters(step)):
                    self._kept[index] = True
                    fresh.append(step)
        return [
            replace(step, may_set=tuple(self._may_set(index, step))) if step.touches else step
            for index, step in enumerate(self._steps)
            if self._kept[index]
        ]

    def _may_set(self, index: int, step: Step) -> Iterator[int]:
        for cell in step.touches:
            for token in self._seen.get(cell, ()):
                if cell not in self._cells or index in self._adders.get(token, ()):
                    yield token

    def _matters(self, step: Step) -> bool:
        """Whether it may have set what was seen, sums aside."""
        if not self._inspected.isdisjoint(step.changed):
            return True
        seen = self._seen
        if any(token in seen.get(cell, ()) for cell, token in step.sets if cell not in self._cells):
            return True
        return any(cell in seen and cell not in self._cells for cell in step.touches)

    def _whole_words(self) -> set[Word]:
        """The words to which is added, and which are only ever changed as a whole."""
        words = {word for step in self._steps for word, _ in step.adds}
        for step in self._steps:
            added = {word for word, _ in step.adds}
            changed = set(step.changed)
            for word in list(words):
                hit = changed.intersection(word)
                as_a_whole = word in added or self._sets_whole(step, word)
                overlapped = any(other != word and hit & set(other) for other in added)
                if hit and (overlapped or not as_a_whole):
                    words.discard(word)
        return words

    @staticmethod
    def _sets_whole(step: Step, word: Word) -> bool:
        return {cell for cell, _ in step.sets}.issuperset(word)

    def _part_of_sums(self) -> set[int]:
        """The steps of which something seen may be the sum."""
        found: set[int] = set()
        for word in self._words:
            if not self._seen.keys().isdisjoint(word):
                found |= self._part_of_sums_of(word)
        return found

    def _part_of_sums_of(self, word: Word) -> set[int]:
        bases: dict[int, list[int]] = {self._value(word, self._state): []}
        adders: list[tuple[int, int]] = []
        for index, step in enumerate(self._steps):
            adders += [(index, delta) for other, delta in step.adds if other == word]
            if self._sets_whole(step, word):
                bases.setdefault(self._value(word, dict(step.sets)), []).append(index)
        if len(bases) << len(adders) > SUMS_MAX:
            every_adder = {index for index, _ in adders}
            for cell in word:
                self._adders |= dict.fromkeys(self._seen.get(cell, ()), every_adder)
            return every_adder.union(*bases.values())
        found: set[int] = set()
        parts = self._seen_parts(word)
        for total, members in _sums(adders):
            for base, setters in bases.items():
                for at, size, values in parts:
                    token = values.get((base + total >> at) % size)
                    if token is not None:
                        found.update(members, setters)
                        self._adders.setdefault(token, set()).update(members)
        return found

    def _seen_parts(self, word: Word) -> list[tuple[int, int, dict[int, int]]]:
        """Of each cell of ``word``: its first bit, its range, and the token of each value seen."""
        parts: list[tuple[int, int, dict[int, int]]] = []
        shift = 0
        for cell in word:
            length = len(self._bytes_of(self._state[cell]))
            tokens = self._seen.get(cell, ())
            values = {int.from_bytes(self._bytes_of(token), "little"): token for token in tokens}
            parts.append((shift, 256**length, values))
            shift += 8 * length
        return parts

    def _value(self, word: Word, tokens: Sequence[int] | dict[int, int]) -> int:
        return int.from_bytes(b"".join(self._bytes_of(tokens[cell]) for cell in word), "little")


def _sums(adders: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Iterable[int]]]:
    """All sums of some deltas of ``adders``, and of which adders each is."""
    for chosen in range(1 << len(adders)):
        members = [each for at, each in enumerate(adders) if chosen >> at & 1]
        yield sum(delta for _, delta in members), [index for index, _ in members]
