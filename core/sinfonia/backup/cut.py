"""A backup is a cut through the logs of all memory nodes, at one moment of their hybrid clocks.

The law: *everything logged up to the last Stamp at or before a moment T, at every memory node, is a
state in which a crash of everything at once could have left the cluster.*  From such a state the
cluster recovers by itself, and so does a restored copy: nothing shows half of a minitransaction, or
an effect without its cause.

Why it is so.  Every message carries the reading of the sender's hybrid clock, and its receiver
stamps what it logs from then on later than that.  So if e came before f, at whichever memory nodes
and through however many clients, then e is stamped earlier: a cut with f has e.  (Programs that
tell each other of e by other ways than this cluster are outside of that, as far as the wall clocks
of the memory nodes differ.)

Why no client waits.  The paper (section 4.9) locks all addresses of all memory nodes for a moment,
in node order, so that no minitransaction is half inside.  Here its Prepared records tell: it has
committed if every participant's vote is in the cut, and else it had not *yet* committed then, for
nothing that depends on it can be in the cut: the outcome is sent only after all votes came back,
and what follows from it is stamped later than they.  The stamps do what the locks would do, and no
minitransaction meets a lock, no dead participant is waited for, and every moment between two
backups is as good as the moment of the backup itself.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from sinfonia.addresses import MemoryNodeId
from sinfonia.protocol.identifiers import Seq, Tid
from sinfonia.protocol.records import Batch, ParticipantState, Stamp, decode_body
from sinfonia.storage.batches import cut_batch


class LogCut:
    """Takes a log in order and gives back of it what lies before ``moment``.

    ``last`` is the last record that does, ``over`` whether a later one was seen that does not.
    """

    def __init__(self, moment: int, after: Seq) -> None:
        self.moment = moment
        self.last = after
        self.over = False
        self._unstamped: list[Batch] = []

    def take(self, batch: Batch) -> list[Batch]:
        """What is now known to lie before the moment; ``batch`` follows the one before.

        Raises msgspec.DecodeError.
        """
        if self.over:
            return []
        within = batch.first - 1
        for seq, record in enumerate(decode_body(batch.body, batch.count), batch.first):
            if isinstance(record, Stamp):
                if record.clock > self.moment:
                    self.over = True
                    break
                within = seq
        if within < batch.first:
            self._unstamped.append(batch)
            return []
        head, tail = cut_batch(batch, within)
        stamped = [*self._unstamped, head]
        self._unstamped = [tail] if tail.count else []
        self.last = within
        return stamped


def committed(lists: Mapping[MemoryNodeId, ParticipantState]) -> frozenset[Tid]:
    """What is in doubt somewhere in the cut, but has an OK vote of every participant there.

    ``lists`` are those of all memory nodes at the same moment.
    """
    voted: defaultdict[Tid, set[MemoryNodeId]] = defaultdict(set)
    for node, state in lists.items():
        # What is forgotten somewhere was decided at all participants, and is in doubt nowhere.
        for tid in _voted_ok(state):
            voted[tid].add(node)
    return frozenset(
        prepared.tid
        for state in lists.values()
        for prepared in state.in_doubt
        if voted[prepared.tid].issuperset(prepared.participants)
    )


def _voted_ok(state: ParticipantState) -> Iterator[Tid]:
    yield from (prepared.tid for prepared in state.in_doubt)
    yield from (decided.tid for decided in state.decided)
