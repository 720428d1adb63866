"""Messages in a few words, for the trace of a failed run."""

from collections.abc import Iterable

from sinfonia.minitransaction import AddItem
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import Register, Registered
from sinfonia.protocol.messages import (
    Commit,
    CommitAck,
    ExecCommit,
    ExecPrepare,
    Forget,
    Probe,
    ProbeReply,
    Replies,
    Requests,
    Resolve,
    Resolved,
    Voted,
)

BYTES_SHOWN_MAX = 16


def words(event: Iterable[object]) -> str:
    """One line for one event."""
    return " ".join(_word(each) for each in event)


def _word(thing: object) -> str:
    match thing:
        case Requests():
            parts = "; ".join(_part(each) for each in thing.requests)
            return f"({thing.incarnation:x}, floor {thing.floor}) {parts}"
        case Replies():
            parts = "; ".join(_part(each) for each in thing.replies)
            return f"({thing.incarnation:x}, epoch {thing.epoch}) {parts}"
    return str(thing)


def _part(message: object) -> str:
    text = type(message).__name__
    match message:
        case ExecCommit(counter=counter, epoch=epoch):
            text += f" {epoch}..{counter}{_items(message)}"
        case ExecPrepare(tid=tid):
            text += f" {_tid(tid)}{_items(message)}{' read-only' if message.read_only else ''}"
        case Commit(tid=tid, action=action):
            text = f"{'Commit' if action else 'Abort'} {_tid(tid)}"
        case CommitAck(tid=tid) | Resolve(tid=tid):
            text += f" {_tid(tid)}"
        case Resolved(tid=tid, answer=answer):
            text += f" {_tid(tid)} {answer.name}"
        case Forget(tids=tids):
            text += f" {' '.join(map(_tid, tids))}"
        case Voted(counter=counter, vote=vote):
            text += f" {counter} {vote.name}"
        case Probe(epoch=epoch):
            text += f" epoch {epoch}"
        case ProbeReply(unsettled=unsettled, serving=serving):
            text += " serving" if serving else " not serving"
            text += "".join(f" {_tid(each.tid)}" for each in unsettled)
        case Register(starts=starts) | Registered(starts=starts):
            text += f" {starts}"
    return text


def _tid(tid: Tid) -> str:
    # The first digits of the client's id tell it apart from the few others of a run.
    return f"{tid.epoch}.{tid.client >> 48:04x}.{tid.counter}"


def _items(request: ExecCommit | ExecPrepare) -> str:
    compares = [f"cmp {each.address}={_hex(each.expected)}" for each in request.compares]
    reads = [f"rd {each.address}+{each.length}" for each in request.reads]
    writes = [f"wr {each.address}={_hex(each.data)}" for each in request.writes]
    return " [" + ", ".join(compares + _checks(request) + reads + writes + _updates(request)) + "]"


def _checks(request: ExecCommit | ExecPrepare) -> list[str]:
    return [
        f"check {each.address}&{each.mask.hex()} {each.relation.name} {each.operand.hex()}"
        for each in request.conditions
    ]


def _updates(request: ExecCommit | ExecPrepare) -> list[str]:
    return [
        f"add {each.address}({each.width})+={each.delta}"
        if isinstance(each, AddItem)
        else f"append {each.address}<<{_hex(each.data)}"
        for each in request.updates
    ]


def _hex(data: bytes) -> str:
    return data[:BYTES_SHOWN_MAX].hex() + ("..." if len(data) > BYTES_SHOWN_MAX else "")
