"""Messages in a few words, for whoever reads the trace of a failed run."""

from collections.abc import Iterable
from typing import Any

from sinfonia.protocol.messages import (
    Commit,
    CommitAck,
    Directory,
    ExecCommit,
    ExecPrepare,
    Forget,
    Probe,
    ProbeReply,
    Register,
    Registered,
    Replies,
    Requests,
    Resolve,
    Resolved,
    Tid,
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
    match message:
        case ExecCommit(counter=counter, epoch=epoch):
            return f"ExecCommit {epoch}..{counter}{_items(message)}"
        case ExecPrepare(tid=tid):
            kind = "ExecPrepare (reads)" if message.read_only else "ExecPrepare"
            return f"{kind} {_tid(tid)}{_items(message)}"
        case Commit(tid=tid, action=action):
            return f"{'Commit' if action else 'Abort'} {_tid(tid)}"
        case CommitAck(tid=tid) | Resolve(tid=tid):
            return f"{type(message).__name__} {_tid(tid)}"
        case Resolved(tid=tid, answer=answer):
            return f"Resolved {_tid(tid)} {answer.name}"
        case Forget(tids=tids):
            return f"Forget {' '.join(map(_tid, tids))}"
        case Voted(counter=counter, vote=vote):
            return f"Voted {counter} {vote.name}"
        case Probe(epoch=epoch):
            return f"Probe epoch {epoch}"
        case ProbeReply(unsettled=unsettled, serving=serving):
            tids = " ".join(_tid(each.tid) for each in unsettled)
            return f"ProbeReply {'serving' if serving else 'not serving'} {tids}".rstrip()
        case Register() | Registered():
            return f"{type(message).__name__} {message.incarnation:x}"
        case Directory(version=version):
            return f"Directory {version}"
    return type(message).__name__


def _tid(tid: Tid) -> str:
    # The first digits of the client's id tell it apart from the few others of a run.
    return f"{tid.epoch}.{tid.client >> 48:04x}.{tid.counter}"


def _items(request: Any) -> str:
    compares = [f"cmp {each.address}={_hex(each.expected)}" for each in request.compares]
    reads = [f"rd {each.address}+{each.length}" for each in request.reads]
    writes = [f"wr {each.address}={_hex(each.data)}" for each in request.writes]
    return " [" + ", ".join(compares + reads + writes) + "]"


def _hex(data: bytes) -> str:
    return data[:BYTES_SHOWN_MAX].hex() + ("..." if len(data) > BYTES_SHOWN_MAX else "")
