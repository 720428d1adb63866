"""Space is never lost: what is allocated is linked, or an intent names its owner.

Blocks are allocated from *arenas*.  A client reserves an arena by its lease and allocates there
alone, so that clients do not meet at a bitmap; any client may free.  Bits are set and cleared by
conditions and add items on some bits of a word, so that neighbours in a word do not refuse each
other.

Where blocks can be allocated by the minitransaction that also links them, that is all there is to
it (``Reservation.take``).  Else the minitransaction that allocates leaves an *intent* in the arena,
and the one that links the blocks removes it (``Arena.link``).  An intent whose owner has lost the
arena is dead: any client may sweep it, and either the link or the sweep happens, never both,
because both compare the intent.

What is freed must be freed by the minitransaction that unlinks it, whose compare items keep it from
happening twice; a bit that is clear already refuses it in any case.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sinfonia.client.steps import Steps, execute, minitransaction, pause
from sinfonia.errors import LimitExceeded
from sinfonia.minitransaction import Minitransaction, Relation
from sinfonia.structures.arena_layout import (
    HEADER_BYTES,
    INTENT_BYTES,
    WORD_BITS,
    WORD_BYTES,
    ArenaHeader,
    ArenaView,
    Intent,
    Run,
)
from sinfonia.structures.errors import LeaseLost, NoSpace, NotAllocated, NotFormatted
from sinfonia.structures.guards import Guard
from sinfonia.structures.lease import POLL_S, Held, Lease, take_over
from sinfonia.structures.lease_layout import Claim, Patience
from sinfonia.structures.settling import execute_until_known

_FULL = (1 << WORD_BITS) - 1

# As many allocations of an owner may be linked from nowhere at a time, if it is not said otherwise.
INTENTS = 64


@dataclass(frozen=True, slots=True)
class Arena:
    """An arena at ``address`` of ``node``; its blocks begin at ``header.data``."""

    node: int
    address: int
    header: ArenaHeader

    def __post_init__(self) -> None:
        if not self.header.valid:
            raise LimitExceeded(f"no arena can be {self.header}")

    @property
    def lease(self) -> Lease:
        """Whose arena it is."""
        return Lease(self.node, self.address + HEADER_BYTES)

    def address_of(self, run: Run) -> int:
        """Where the first byte of ``run`` is."""
        return self.header.data + run.first * self.header.block_bytes

    def run_at(self, address: int, blocks: int) -> Run:
        """The inverse of ``address_of``.  Raises LimitExceeded."""
        first, rest = divmod(address - self.header.data, self.header.block_bytes)
        if rest:
            raise LimitExceeded(f"no block begins at {address}")
        return self._checked(Run(first, blocks))

    def place_of(self, intent: Intent) -> int:
        """The address of an intent.  Raises LimitExceeded."""
        if not 0 <= intent.slot < self.header.intents:
            raise LimitExceeded(f"slot {intent.slot} of an arena with {self.header.intents}")
        return self.address + self.header.intents_offset + intent.slot * INTENT_BYTES

    # --- formatting ----------------------------------------------------------------------------

    def format(self) -> Steps[bool]:
        """Make fresh memory an arena; False if it is this one already.

        Raises NotFormatted if something else is there.
        """
        t = minitransaction()
        t.compare(self.node, self.address, bytes(HEADER_BYTES))
        t.write(self.node, self.address, self.header.encode())
        places = range(self.header.intents_offset, self.header.bitmap_offset, INTENT_BYTES)
        empty = b"".join(Intent(slot, 0).encode() for slot, _ in enumerate(places))
        t.write(self.node, self.address + self.header.intents_offset, empty)
        bitmap = self.address + self.header.bitmap_offset
        t.write(self.node, bitmap, self.header.empty_bitmap())
        result = yield from execute_until_known(t)
        if not result.committed and result.failed_compares[0].found != self.header.encode():
            raise NotFormatted(
                f"there is something else at {self.address} of memory node {self.node}; an arena "
                "is made where all is zeros"
            )
        return result.committed

    # --- looking -------------------------------------------------------------------------------

    def look(self) -> Steps[ArenaView]:
        """All of it at one moment."""
        t = minitransaction()
        t.read(self.node, self.address, self.header.byte_count)
        data = (yield from execute_until_known(t)).reads[0]
        if data[:HEADER_BYTES] != self.header.encode():
            raise NotFormatted(f"no such arena is at {self.address} of memory node {self.node}")
        return ArenaView.decode(self.header, data[HEADER_BYTES:])

    # --- items for minitransactions of the caller's ----------------------------------------------

    def link(self, t: Minitransaction[Any], intent: Intent) -> Guard:
        """Have ``t`` end ``intent``: it links the blocks to where they will be found.

        If the guard does not hold, the intent was swept, or ended by an earlier copy of ``t``.
        """
        place = self.place_of(intent)
        guard = Guard([t.compare(self.node, place, intent.encode())])
        t.write(self.node, place, intent.cleared().encode())
        return guard

    def take(self, t: Minitransaction[Any], run: Run) -> Guard:
        """Have ``t`` allocate ``run``; the guard does not hold if some of it is not free.

        The client that does that must hold the lease, or be the only one: see ``Reservation.take``.
        """
        return self._flip(t, run, allocate=True)

    def give_back(self, t: Minitransaction[Any], run: Run) -> Guard:
        """Have ``t`` free ``run``; the guard does not hold if some of it is free already.

        ``t`` must compare what it unlinks, so that no copy of it frees what was allocated again.
        """
        return self._flip(t, run, allocate=False)

    # --- operations ----------------------------------------------------------------------------

    def free(self, run: Run) -> Steps[None]:
        """Free ``run``, which is linked from nowhere and has no intent.

        Raises NotAllocated, and what ``Cluster.execute`` raises.  After an OutcomeUnknown the
        blocks may be free, and another client's soon: use ``give_back`` if that can be.
        """
        t = minitransaction()
        guard = self.give_back(t, run)
        result = yield from execute(t)
        if not guard.holds(result):
            raise NotAllocated(
                f"of blocks {run.first} to {run.first + run.blocks - 1} of the arena at "
                f"{self.address} of memory node {self.node} some are free already"
            )

    def abandon(self, intent: Intent) -> Steps[bool]:
        """Return what was allocated and never linked; False if the intent had ended before.

        If it is repeated after an OutcomeUnknown, nothing happens twice.
        """
        t = minitransaction()
        self.link(t, intent)
        self.give_back(t, intent.run)
        return (yield from execute_until_known(t)).committed

    def sweep(self) -> Steps[list[Intent]]:
        """Return what dead owners left allocated and linked from nowhere.

        Any client may.
        """
        swept = []
        for intent in (yield from self.look()).dead():
            if (yield from self.abandon(intent)):
                swept.append(intent)  # noqa: PERF401 - a comprehension cannot yield
        return swept

    # --- odds and ends -------------------------------------------------------------------------

    def _flip(self, t: Minitransaction[Any], run: Run, *, allocate: bool) -> Guard:
        """Set or clear the bits of ``run``, all of which must be as they are not to stay."""
        self._checked(run)
        indices = []
        whole: list[int] = []
        for word, mask in run.words():
            if mask == _FULL:
                whole.append(word)
                continue
            place = self._word(word)
            found = 0 if allocate else mask
            indices.append(t.check(self.node, place, Relation.EQUAL, found, mask=mask))
            t.add(self.node, place, mask if allocate else -mask)
        if whole:
            ones, zeros = b"\xff" * (WORD_BYTES * len(whole)), bytes(WORD_BYTES * len(whole))
            before, after = (zeros, ones) if allocate else (ones, zeros)
            indices.append(t.compare(self.node, self._word(whole[0]), before))
            t.write(self.node, self._word(whole[0]), after)
        return Guard(indices)

    def _word(self, word: int) -> int:
        return self.address + self.header.bitmap_offset + word * WORD_BYTES

    def _checked(self, run: Run) -> Run:
        if run.first < 0 or run.blocks < 1 or run.first + run.blocks > self.header.blocks:
            raise LimitExceeded(f"{run} in an arena of {self.header.blocks} blocks")
        return run


def open_arena(node: int, address: int) -> Steps[Arena]:
    """The arena that was formatted there.  Raises NotFormatted."""
    t = minitransaction()
    t.read(node, address, HEADER_BYTES)
    header = ArenaHeader.decode((yield from execute_until_known(t)).reads[0])
    if header is None:
        raise NotFormatted(f"no arena is at {address} of memory node {node}")
    return Arena(node, address, header)


@dataclass(frozen=True, slots=True)
class Reservation:
    """An arena whose lease a client holds, so that it allocates there alone."""

    arena: Arena
    held: Held

    def take(self, t: Minitransaction[Any], run: Run) -> Guard:
        """Have ``t``, which also links ``run``, allocate it; not, if the arena has passed on."""
        fence = self.held.check(t)
        bits = self.arena.take(t, run)
        return Guard([*fence.indices, *bits.indices])

    def plan(self, view: ArenaView, blocks: int, attempt: int, *, start: int = 0) -> Intent | None:
        """Choose ``blocks`` blocks in a row that are free in ``view``, for ``add``; None: no room.

        ``attempt`` is a number that this owner uses for one allocation; ``start``: where to search.
        """
        run = view.find(blocks, start=start)
        slots = [intent for intent in view.intents if intent.is_free]
        if run is None or not slots:
            return None
        slot = slots[attempt % len(slots)]
        return Intent(slot.slot, slot.serial + 1, self.held.fence, attempt, run)

    def add(self, t: Minitransaction[Any], intent: Intent) -> Guard:
        """Have ``t`` allocate as planned, with an intent."""
        guard = self.take(t, intent.run)
        place = self.arena.place_of(intent)
        before = Intent(intent.slot, intent.serial - 1).encode()
        index = t.compare(self.arena.node, place, before)
        t.write(self.arena.node, place, intent.encode())
        return Guard([*guard.indices, index])

    def allocate(self, blocks: int, attempt: int) -> Steps[Intent]:
        """Allocate ``blocks`` blocks in a row, to be linked by ``Arena.link``, or abandoned.

        ``attempt`` is a number of 64 bits that this owner uses for one allocation; the same once
        more, after an OutcomeUnknown, gives the same blocks.  Raises NoSpace; LeaseLost; what
        ``Cluster.execute`` raises.
        """
        chance = random.Random(attempt)
        start = 0
        while True:
            view = yield from self.arena.look()
            for intent in view.outstanding():
                if (intent.fence, intent.attempt) == (self.held.fence, attempt):
                    return intent
            if view.lease.fence != self.held.fence:
                raise LeaseLost(f"the arena at {self.arena.address} has passed on")
            planned = self.plan(view, blocks, attempt, start=start)
            if planned is None:
                raise self._no_space(view, blocks)
            t = minitransaction()
            self.add(t, planned)
            if (yield from execute_until_known(t)).committed:
                return planned
            # Another task of this owner was faster: meet it no more.
            start = chance.randrange(self.arena.header.blocks)

    def _no_space(self, view: ArenaView, blocks: int) -> NoSpace:
        if all(not intent.is_free for intent in view.intents):
            return NoSpace(
                f"{len(view.intents)} allocations are linked from nowhere, as many as the arena at "
                f"{self.arena.address} can remember; link or abandon some"
            )
        return NoSpace(
            f"no {blocks} blocks in a row are free in the arena at {self.arena.address} of memory "
            f"node {self.arena.node}, which has {view.free_blocks}; reserve another"
        )


@dataclass(frozen=True, slots=True)
class Allocator:
    """Several arenas; clients spread over them."""

    arenas: Sequence[Arena]

    def reserve(self, claim: Claim, duration: float, *, blocks: int = 1) -> Steps[Reservation]:
        """An arena with room for ``blocks`` blocks in a row, for ``claim`` alone.

        Arenas of owners that are silent for their lease's duration are taken over, and swept.  To
        be kept, and given back, by ``Reservation.held``.  Raises NoSpace if no arena has room,
        whosoever it is; LimitExceeded; TimedOut at the deadline of the whole operation;
        OutcomeUnknown: reserve again with the same claim.
        """
        start = zlib.crc32(claim.holder) % len(self.arenas)
        order = [*self.arenas[start:], *self.arenas[:start]]
        patience = {arena: Patience() for arena in order}
        while True:
            full = 0
            for arena in order:
                view = yield from arena.look()
                missing = patience[arena].missing(view.lease)
                if view.swept().find(blocks) is None:
                    full += 1
                elif view.lease.belongs_to(claim) or missing <= 0:
                    held = yield from _hold(arena, view, claim, duration)
                    if held is not None:
                        yield from arena.sweep()
                        return Reservation(arena, held)
            if full == len(order):
                raise NoSpace(f"no {blocks} blocks in a row are free in any of {full} arenas")
            yield from pause(POLL_S)
            for each in patience.values():
                each.waited += POLL_S

    def sweep(self) -> Steps[list[Intent]]:
        """``Arena.sweep`` for each; owners that only stand still keep theirs until replaced."""
        swept = []
        for arena in self.arenas:
            swept += yield from arena.sweep()
        return swept


def _hold(arena: Arena, view: ArenaView, claim: Claim, duration: float) -> Steps[Held | None]:
    """The lease of the arena; None if another client was faster."""
    if view.lease.belongs_to(claim):
        return Held(arena.lease, claim, view.lease.fence, view.lease.duration)
    taken = yield from take_over([arena.lease], [view.lease], claim, duration)
    return None if taken is None else taken[0]
