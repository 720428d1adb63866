"""A call is one minitransaction for its caller; an attempt is that call under one tid.

The coordinator's values, and how votes become a result.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import msgspec

from sinfonia.addresses import MemoryNodeId
from sinfonia.errors import (
    Contended,
    NotExecuted,
    OutcomeUnknown,
    Overloaded,
    SinfoniaError,
    TimedOut,
)
from sinfonia.minitransaction import AppendItem, FailedCompare, Minitransaction, Result
from sinfonia.protocol.effects import SendTo
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Commit, ExecCommit, ExecPrepare, Request, Vote, Voted

# Votes that do not say whether an earlier copy of the request was executed.
FORGOTTEN_VOTES = frozenset({Vote.BAD_FLOOR, Vote.BAD_EPOCH})

# A vote BAD_RANGE, for the caller.
NOT_ALL_BYTES = (
    "an item ends beyond the addresses of its memory node, or appends where there is no ring with "
    "slots for so much data"
)

# What clocks may gain on each other while a read lease lasts.
CLOCK_DRIFT_MARGIN = 0.1


class Call(msgspec.Struct, gc=False):
    """One minitransaction being executed, under as many tids as it takes.

    ``result`` or ``error`` is set when it is over; ``waiter`` is the driver's, whatever it waits
    with.  ``deadline`` is in the driver's monotonic seconds.

    The garbage collector need not look at calls and attempts: they form no cycles, and there are
    thousands of them at a time.
    """

    minitransaction: Minitransaction[Any]
    deadline: float
    attempts: int = 0
    result: Result | None = None
    error: SinfoniaError | None = None
    waiter: Any = None


class Attempt(msgspec.Struct, gc=False):
    """A call under one tid.

    ``requests`` says what each participant was asked; ``call`` is None once its caller was told
    that nobody knows.
    """

    call: Call | None
    tid: Tid
    sent_at: float
    requests: dict[MemoryNodeId, Request]
    read_only: bool
    votes: dict[MemoryNodeId, Voted] = {}
    resent: bool = False
    # Copies on their way to a participant, where that is not the one that went there at first.
    unanswered: dict[MemoryNodeId, int] = {}
    unreached: set[MemoryNodeId] = set()  # where the last copy never left for

    @classmethod
    def begin(cls, call: Call, tid: Tid, now: float) -> Self:
        """The attempt to execute ``call`` under ``tid``."""
        requests, read_only = _requests(call.minitransaction, tid)
        return cls(call, tid, now, requests, read_only)

    @property
    def deadline(self) -> float:
        """When its caller is told what is known."""
        return math.inf if self.call is None else self.call.deadline

    @property
    def complete(self) -> bool:
        """Whether every participant has voted."""
        return len(self.votes) == len(self.requests)

    @property
    def refused(self) -> bool:
        """Whether some vote says that it cannot commit, and has not."""
        return any(
            voted.vote is not Vote.OK and not self.says_nothing(voted)
            for voted in self.votes.values()
        )

    @property
    def voted_ok(self) -> list[MemoryNodeId]:
        """The participants whose OK vote is in hand."""
        return [node for node, voted in self.votes.items() if voted.vote is Vote.OK]

    def sent_again(self, nodes: Iterable[MemoryNodeId]) -> None:
        """A further copy is on its way to each of ``nodes``."""
        for node in nodes:
            copies = self.unanswered.get(node, 1)
            self.resent = self.resent or copies > 0
            self.unanswered[node] = copies + 1
            self.unreached.discard(node)

    def not_sent(self, node: MemoryNodeId) -> None:
        """The last copy for ``node`` never left: there is no connection."""
        self.unanswered[node] = max(0, self.unanswered.get(node, 1) - 1)
        self.unreached.add(node)

    def turned_away(self, node: MemoryNodeId) -> None:
        """``node`` has answered a copy with BAD_LOAD, and remembers nothing of it."""
        self.unanswered[node] = max(0, self.unanswered.get(node, 1) - 1)

    def is_untouched(self, node: MemoryNodeId) -> bool:
        """Whether no copy is on its way to ``node``, or being executed there."""
        return self.unanswered.get(node) == 0

    @property
    def untouched(self) -> list[MemoryNodeId]:
        """Participants that no copy reached, or that turned every one away.

        They have not voted OK, and are asked no more.

        That counts on a transport that does not double messages, as ZeroMQ over TCP.
        """
        return [n for n, copies in self.unanswered.items() if not copies and n not in self.votes]

    def is_answered_by(self, node: MemoryNodeId, voted: Voted) -> bool:
        """Whether ``voted`` can be what ``node`` says to this; a result is made of nothing else."""
        asked = self.requests[node]
        assert isinstance(asked, ExecCommit | ExecPrepare)
        if voted.vote is Vote.OK:
            answers = len(asked.reads) + len(asked.updates)
            return not voted.failed and len(voted.reads) == answers
        if voted.vote is not Vote.BAD_CMP:
            return not voted.failed and not voted.reads
        positions = {position for position, _ in voted.failed}
        compared = len(asked.compares) + len(asked.conditions)
        return 0 < len(positions) == len(voted.failed) and all(
            0 <= position < compared
            or (
                0 <= position - compared < len(asked.updates)
                and isinstance(asked.updates[position - compared], AppendItem)
            )
            for position in positions
        )

    def says_nothing(self, voted: Voted) -> bool:
        """Whether ``voted`` leaves open what became of an earlier copy."""
        return voted.vote in FORGOTTEN_VOTES and self.resent and not self.read_only

    def why_not_executed(self) -> NotExecuted | None:
        """Why it has certainly not happened, though votes are missing; None: it may have."""
        untouched = self.untouched
        if untouched and self.unreached.issuperset(untouched):
            return TimedOut(
                f"memory node {', '.join(map(str, untouched))} could not be reached before the "
                "deadline; `sinfonia status` shows who is down"
            )
        if untouched:
            overloaded = ", ".join(map(str, untouched))
            return Overloaded(
                f"memory node {overloaded} took nothing more until the deadline, because a limit "
                "of it is reached; `sinfonia status` shows what is undecided there, and who is down"
            )
        if self.read_only:
            return TimedOut("no answer before the deadline; nothing was to be written")
        if self.refused:
            return Contended("a memory node could not execute it before the deadline")
        return None

    def unknown(self) -> OutcomeUnknown:
        """The outcome is not known yet, because votes are missing."""
        missing = ", ".join(str(node) for node in self.requests if node not in self.votes)
        message = f"memory node {missing} did not answer before the deadline: ask for its outcome"
        return OutcomeUnknown(message, self.tid)

    def closed(self) -> SinfoniaError:
        """What is known of it, now that no more answers will be heard."""
        message = f"the connection was closed while {self.tid} was under way"
        if self.why_not_executed() is not None:
            return NotExecuted(message)
        return OutcomeUnknown(message, self.tid)

    def too_late(self) -> OutcomeUnknown:
        """The outcome can no longer be known here."""
        message = f"{self.tid} took so long that its memory node has forgotten it"
        return OutcomeUnknown(message, self.tid)

    def holders(self) -> list[MemoryNodeId]:
        """Participants that may hold locks: they voted OK, or did not answer what reached them."""
        votes, untouched = self.votes, self.untouched
        return [
            node
            for node in self.requests
            if (votes[node].vote is Vote.OK if node in votes else node not in untouched)
        ]

    def still_held(self, now: float) -> bool:
        """Whether all locks of a read-only attempt were certainly held at one moment."""
        good_for = min(voted.good_for for voted in self.votes.values())
        return now - self.sent_at < good_for * (1 - CLOCK_DRIFT_MARGIN)


class Committing:
    """A two-phase outcome on its way to the participants that have not acknowledged it."""

    __slots__ = ("action", "participants", "sent_at", "tid", "unacknowledged")

    def __init__(self, attempt: Attempt, action: bool, now: float) -> None:
        self.tid = attempt.tid
        self.action = action
        self.participants = list(attempt.requests)
        self.unacknowledged = attempt.holders()
        self.sent_at = now

    def outstanding(self) -> list[SendTo]:
        """COMMIT to every participant that has not acknowledged it."""
        commit = Commit(self.tid, self.action)
        return [SendTo(node, commit) for node in self.unacknowledged]


def result_of(call: Call, votes: Mapping[MemoryNodeId, Voted]) -> Result:
    """The result that these votes amount to: all are OK, or some compare failed and then some
    may be missing."""
    minitransaction = call.minitransaction
    items = minitransaction.items
    failed: list[FailedCompare] = []
    full: list[int] = []
    for node, voted in votes.items():
        for position, found in voted.failed:
            what = _failed_item(minitransaction, node, position, found)
            if isinstance(what, FailedCompare):
                failed.append(what)
            else:
                full.append(what)
    committed = not failed and not full
    reads: list[bytes] = []
    if all(
        node in votes and len(votes[node].reads) >= len(each.reads) for node, each in items.items()
    ):
        reads = [votes[node].reads[position] for node, position in minitransaction.read_places]
    if not committed:
        failed.sort(key=lambda each: each.index)
        return Result(False, reads, failed, call.attempts, full_rings=sorted(full))
    if not minitransaction.add_places and not minitransaction.append_places:
        return Result(True, reads, (), call.attempts)
    answers = {node: votes[node].reads[len(each.reads) :] for node, each in items.items()}
    return Result(
        True,
        reads,
        (),
        call.attempts,
        [int.from_bytes(answers[n][p], "little") for n, p in minitransaction.add_places],
        [int.from_bytes(answers[n][p], "little") for n, p in minitransaction.append_places],
    )


def _failed_item(
    minitransaction: Minitransaction[Any], node: MemoryNodeId, position: int, found: bytes
) -> FailedCompare | int:
    """What a memory node's position stands for: a compare or condition, or an append's index."""
    items = minitransaction.items[node]
    if position < len(items.compares):
        item = items.compares[position]
        index = minitransaction.compare_places.index((node, position))
        return FailedCompare(index, node, item.address, item.expected, found)
    position -= len(items.compares)
    if position < len(items.conditions):
        condition = items.conditions[position]
        index = minitransaction.compare_places.index((node, ~position))
        return FailedCompare(index, node, condition.address, condition.operand, found)
    return minitransaction.append_places.index((node, position - len(items.conditions)))


def _requests(
    minitransaction: Minitransaction[Any], tid: Tid
) -> tuple[dict[MemoryNodeId, Request], bool]:
    """Figure 4, lines 2-4: what each participant is asked, and whether nothing is written."""
    by_node = minitransaction.items
    on_failure, tag = minitransaction.reads_on_failure, minitransaction.tag
    if len(by_node) == 1:
        [(node, items)] = by_node.items()
        lock_wait = minitransaction.lock_wait
        request = ExecCommit(
            counter=tid.counter,
            epoch=tid.epoch,
            compares=items.compares,
            reads=items.reads,
            writes=items.writes,
            reads_on_failure=on_failure,
            conditions=items.conditions,
            updates=items.updates,
            tag=tag,
            lock_wait_ms=max(1, round(lock_wait * 1e3)) if lock_wait else 0,
        )
        return {node: request}, not items.writes and not items.updates
    participants = sorted(by_node)
    read_only = minitransaction.read_only
    return {
        node: ExecPrepare(
            tid=tid,
            participants=participants,
            compares=items.compares,
            reads=items.reads,
            writes=items.writes,
            reads_on_failure=on_failure,
            read_only=read_only,
            conditions=items.conditions,
            updates=items.updates,
            tag=tag,
        )
        for node, items in by_node.items()
    }, read_only
