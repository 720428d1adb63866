"""The search behind the checker: put operations in one order, one after another, or give up.

The search of Wing and Gong with Lowe's memory of what has been tried, for minitransactions:

* Memory is cut into *cells* at the borders of all items, so that items may overlap freely, and a
  (cell, bytes) pair is numbered as a *token*.  A state is a tuple of tokens, one per cell.
* A step needs tokens (what its compares expected and its reads returned) and sets tokens.
* Where that depends on what is there (conditions, and updates whose answer is not known), a
  step *looks* at cells, and its *effect* says what it sets, in the cells that it *touches*, or that
  it cannot come there.
* A step may come next only if no other step that is still to be placed returned before it began.
* A step that sets nothing is placed as soon as it may come next and finds what it needs: whatever
  order comes after, moving it to here changes nothing for the others.
* A token that a definite step still needs may be overwritten only if someone can set it again.
* A set of placed steps and the state it led to is never explored twice, nor is the same set with
  more possible steps that led to the same state.
* Orders with few possible steps are looked for first: with none, with one, and so on.  Most of what
  has an order has one of these, and is lost among all the others that can be thought of.

A definite step must be placed; a possible one (unknown outcome) may be, and only where it makes a
difference: before the next definite step something must *meet* it, in a cell that one of the two
sets or touches.  If nothing does, it may as well come after that definite step, or not at all.  And
one whose bytes were all overwritten before anything *read* them might as well not have happened;
to look at them is to read them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

INFINITY = 2**62

# Of the steps of a search, those that look for an order with few possible steps.
FEW_SHARE = 0.5

Pairs = tuple[tuple[int, int], ...]  # of a cell and a token

# Of the tokens in the cells that a step looks at, what it sets beside what it always sets; None
# if it cannot come where these are.
Effect = Callable[[tuple[int, ...]], Pairs | None]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation, or the part of a failed one that one memory node answered.

    ``sets`` are certain, whatever the ``effect`` is in the cells of ``touches``.  What it looks at
    is either what its ``adds`` change, the cells of a word and a delta each, or what it
    ``inspects``.  ``may_set``: of the tokens that are needed, those that its effect can be.
    """

    number: int
    invoked_at: int
    returned_at: int
    needs: Pairs
    sets: Pairs
    looks: tuple[int, ...] = ()
    touches: tuple[int, ...] = ()
    effect: Effect | None = None
    inspects: tuple[int, ...] = ()
    adds: tuple[tuple[tuple[int, ...], int], ...] = ()
    may_set: tuple[int, ...] = ()

    @property
    def definite(self) -> bool:
        return self.returned_at < INFINITY

    @property
    def changing(self) -> bool:
        """Whether it may set anything."""
        return bool(self.sets or self.touches)

    @property
    def read(self) -> tuple[int, ...]:
        """The cells that it reads."""
        return (*(cell for cell, _ in self.needs), *self.looks)

    @property
    def changed(self) -> tuple[int, ...]:
        """The cells that it may set."""
        return (*(cell for cell, _ in self.sets), *self.touches)


@dataclass(slots=True)
class _Frame:
    """A point of the search: ``placed`` steps led here, and ``choices`` are still to be tried."""

    placed: int
    choices: Iterator[int]


class _Placed(NamedTuple):
    """A step in the order, and what it takes to remove it again."""

    step: int
    unmet: int
    unread: int
    overwritten: list[tuple[int, int, int]]  # cell, token, setter


@dataclass(slots=True)
class Search:
    """One search over ``steps``, which must come with the definite ones first, by invocation.

    ``best`` is the longest sequence of steps that was reached.
    """

    steps: Sequence[Step]
    definite: int
    state: list[int]
    tokens: int
    steps_max: int
    mask: int = 0
    unmet: int = 0  # the possible steps placed last that nothing has met yet
    unread: int = 0  # the possible steps placed whose bytes nothing has needed yet
    trail: list[_Placed] = field(default_factory=list)
    meets: list[int] = field(default_factory=list)
    observers: list[int] = field(default_factory=list)
    writers: list[int] = field(default_factory=list)
    setters: list[int] = field(default_factory=list)  # by cell: the step that wrote it last, or -1
    reads: list[tuple[int, ...]] = field(default_factory=list)  # by step
    changes: list[tuple[int, ...]] = field(default_factory=list)  # by step
    effects: dict[tuple[int, ...], Pairs | None] = field(default_factory=dict)
    tried: int = 0
    limited: bool = False  # whether more possible steps might have been placed
    # By definite steps placed and state: the possible steps placed, unmet and unread.
    reached: dict[tuple[int, tuple[int, ...]], list[tuple[int, int, int]]] = field(
        default_factory=dict
    )
    best: list[int] = field(default_factory=list)

    def run(self) -> bool | None:
        """Whether there is an order; None if ``steps_max`` was not enough to find out."""
        self._count_uses()
        self._find_meetings()
        self.setters = [-1] * len(self.state)
        possible = len(self.steps) - self.definite
        for most in range(possible):
            found = self._run_with(most, round(self.steps_max * FEW_SHARE))
            if found is None:
                break
            if found or not self.limited:
                return found
        return self._run_with(possible, self.steps_max)

    def _run_with(self, most: int, steps_max: int) -> bool | None:
        """Whether there is an order with at most so many possible steps; None as ``run`` says it,
        ``steps_max`` being for all that was tried so far."""
        self._undo(0)
        self.reached.clear()
        self.limited = False
        self._place_readers()
        frames = [_Frame(0, iter(self.choices()))]
        while frames:
            if self._complete():
                return True
            choice = next(frames[-1].choices, None)
            if choice is None:
                self._undo(frames.pop().placed)
                continue
            if choice >= self.definite and self._possible_placed().bit_count() >= most:
                self.limited = True
                continue
            self.tried += 1
            if self.tried > steps_max:
                return None
            before = len(self.trail)
            if self._place(choice) and self._place_readers() and self._is_new():
                frames.append(_Frame(before, iter(self.choices())))
            else:
                self._undo(before)
        return False

    def _possible_placed(self) -> int:
        """The possible steps that are placed, as bits."""
        return self.mask >> self.definite

    def _is_new(self) -> bool:
        """Whether this point was not reached before, nor with some of its possible steps less.

        What leads from here to an order leads from there to one with fewer of them.
        """
        key = (self.mask & ((1 << self.definite) - 1), tuple(self.state))
        possible = self._possible_placed()
        this = (possible, self.unmet, self.unread)
        before = self.reached.setdefault(key, [])
        for there in before:
            if there == this or (there[0] != possible and there[0] & possible == there[0]):
                return False
        before.append(this)
        return True

    def eligible(self) -> list[int]:
        """The steps not yet placed that real time allows to come next, by their returns."""
        definite: list[int] = []
        bound = INFINITY
        # The lowest bit that is not set is the first step not yet placed.
        index = (~self.mask & (self.mask + 1)).bit_length() - 1
        while index < self.definite:
            if not self.mask >> index & 1:
                step = self.steps[index]
                if step.invoked_at > bound:
                    break
                bound = min(bound, step.returned_at)
                definite.append(index)
            index += 1
        definite.sort(key=lambda each: self.steps[each].returned_at)
        possible = [
            each
            for each in range(self.definite, len(self.steps))
            if not self.mask >> each & 1 and self.steps[each].invoked_at <= bound
        ]
        return definite + possible

    def choices(self) -> list[int]:
        """The eligible steps that find what they need."""
        state, steps = self.state, self.steps
        return [
            index
            for index in self.eligible()
            if all(state[cell] == token for cell, token in steps[index].needs)
            and (steps[index].effect is None or self._outcome(index) is not None)
        ]

    def _outcome(self, index: int) -> Pairs | None:
        """What a step would set if it came next; None if it cannot."""
        step = self.steps[index]
        if step.effect is None:
            return step.sets
        tokens = tuple([self.state[cell] for cell in step.looks])
        key = (index, *tokens)
        if key not in self.effects:
            outcome = step.effect(tokens)
            if outcome is not None:
                outcome += step.sets
                # Some of these bytes may be new to the search.
                unheard_of = max((token + 1 for _, token in outcome), default=0)
                for counts in (self.observers, self.writers):
                    counts.extend([0] * (unheard_of - len(counts)))
            self.effects[key] = outcome
        return self.effects[key]

    def _count_uses(self) -> None:
        self.observers = [0] * self.tokens
        self.writers = [0] * self.tokens
        self.reads = [step.read for step in self.steps]
        self.changes = [step.changed for step in self.steps]
        for step in self.steps:
            for _, token in step.sets:
                self.writers[token] += 1
            for token in step.may_set:
                self.writers[token] += 1
            if step.definite:
                for _, token in step.needs:
                    self.observers[token] += 1

    def _find_meetings(self) -> None:
        """For each step, as bits, the possible steps that it meets."""
        needs = [_bits(cells) for cells in self.reads]
        sets = [_bits(cells) for cells in self.changes]
        self.meets = [0] * len(self.steps)
        for possible in range(self.definite, len(self.steps)):
            needed, changed = needs[possible], sets[possible]
            for index in range(len(self.steps)):
                if changed & (needs[index] | sets[index]) or needed & sets[index]:
                    self.meets[index] |= 1 << possible

    def _complete(self) -> bool:
        everything = (1 << self.definite) - 1
        return self.mask & everything == everything

    def _place_readers(self) -> bool:
        """Place what may come next and sets nothing; False as ``_place`` says it."""
        possible = True
        progress = True
        while progress:
            progress = False
            for index in self.choices():
                if index < self.definite and not self.steps[index].changing:
                    possible = self._place(index) and possible
                    progress = True
        if len(self.trail) > len(self.best):
            self.best = [placed.step for placed in self.trail]
        return possible

    def _place(self, index: int) -> bool:
        """Put a step next; False if that cannot lead to an order, or to none that is new."""
        step = self.steps[index]
        state, observers, writers = self.state, self.observers, self.writers
        outcome = self._outcome(index)
        assert outcome is not None, "a step was placed where it cannot be"
        if index < self.definite:
            for _, token in step.needs:
                observers[token] -= 1
        before = (self.unmet, self.unread)
        for cell in self.reads[index]:
            setter = self.setters[cell]
            if setter >= self.definite:
                self.unread &= ~(1 << setter)
        possible = True
        for _, token in step.sets:
            writers[token] -= 1
        for token in step.may_set:
            writers[token] -= 1
        old = []
        for cell, token in outcome:
            overwritten, setter = state[cell], self.setters[cell]
            old.append((cell, overwritten, setter))
            state[cell] = token
            self.setters[cell] = index
            if overwritten != token and observers[overwritten] and not writers[overwritten]:
                possible = False
            if setter >= self.definite and self.unread >> setter & 1:
                possible = possible and self._survives(setter)
        self.mask |= 1 << index
        self.trail.append(_Placed(index, *before, old))
        self.unmet &= ~self.meets[index]
        if index >= self.definite:
            self.unmet |= 1 << index
            self.unread |= 1 << index
        elif self.unmet:
            possible = False
        return possible

    def _survives(self, index: int) -> bool:
        """Whether bytes of a placed step can still be read."""
        return any(self.setters[cell] == index for cell in self.changes[index])

    def _undo(self, placed: int) -> None:
        while len(self.trail) > placed:
            index, self.unmet, self.unread, old = self.trail.pop()
            step = self.steps[index]
            self.mask ^= 1 << index
            for cell, token, setter in old:
                self.state[cell] = token
                self.setters[cell] = setter
            for _, token in step.sets:
                self.writers[token] += 1
            for token in step.may_set:
                self.writers[token] += 1
            if index < self.definite:
                for _, token in step.needs:
                    self.observers[token] += 1


def _bits(cells: Iterable[int]) -> int:
    """Cells, as bits."""
    bits = 0
    for cell in cells:
        bits |= 1 << cell
    return bits
