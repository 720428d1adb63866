"""What watches cost: a commit without a watch, one among ten thousand of them, their memory.

One memory node's participant without network or disk, so that nothing else hides the cost.  "No
watch" is what a commit costs whose bytes are not watched; it looks at one attribute, and what that
look costs by itself is the next figure.  Prints JSON.

    python core/bench/watches.py [--watches N] [--rounds N]
"""

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.load.counters import LoadCounters
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    ExecCommit,
    Requests,
    Unwatch,
    Watch,
)
from sinfonia.protocol.messages import WatchRange as Range
from sinfonia.protocol.participant import Participant
from sinfonia.protocol.participant_state import LiveParticipantState
from sinfonia.protocol.watches import WATCHES_PER_REQUEST_MAX, Watches
from sinfonia.storage.address_space import AddressSpace

CAPACITY = 1 << 26
COMMITS = 5_000
WORD = 8


def participant() -> Participant:
    made = Participant(
        LiveParticipantState(AddressSpace(CAPACITY), logged=False),
        node=MemoryNodeId(0),
        incarnation=1,
        read_lease=0.25,
        load=LoadCounters(),
    )
    made.serving = True
    return made


def arm(watches: Watches, count: int, *, spacing: int, length: int = WORD) -> None:
    """One client's watches, evenly spaced."""
    for first in range(0, count, WATCHES_PER_REQUEST_MAX):
        numbers = range(first, min(count, first + WATCHES_PER_REQUEST_MAX))
        ranges = [Range(number, number * spacing % CAPACITY, length) for number in numbers]
        refused = watches.on_watch(b"route", 1, Watch(ranges), 0.0).refused
        assert not refused


def commit_ns(made: Participant, address: int) -> float:
    """Nanoseconds for a commit of one word, in batches of 64."""
    commits = [
        ExecCommit(
            counter=counter,
            epoch=0,
            compares=[],
            reads=[],
            writes=[WriteItem(address, bytes(WORD))],
        )
        for counter in range(1, COMMITS + 1)
    ]
    batches = [
        Requests(PROTOCOL_VERSION, 7, 1, first + 1, list(commits[first : first + 64]))
        for first in range(0, COMMITS, 64)
    ]
    made.state.sessions.drop_stale(10)
    # Of this thread alone: the machine may be busy with something else.
    begin = time.thread_time_ns()
    for batch in batches:
        made.on_requests(batch, 0.0)
    return (time.thread_time_ns() - begin) / COMMITS


def touch_ns(watches: Watches, address: int, length: int) -> float:
    """Nanoseconds for what a commit adds that writes this range."""
    times = 2_000
    begin = time.thread_time_ns()
    for _ in range(times):
        watches.touch(address, length)
    spent = time.thread_time_ns() - begin
    while watches.take_hints():
        pass
    return spent / times


def bytes_per_watch(count: int) -> float:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    watches = Watches(CAPACITY)
    arm(watches, count, spacing=64)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / count


def best(rounds: int, measure: Callable[[], float]) -> dict[str, float]:
    """The fastest and the middle of several rounds."""
    found = [measure() for _ in range(rounds)]
    return {"best": round(min(found), 1), "median": round(statistics.median(found), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rounds, count = options.rounds, options.watches

    unwatched, beside, elsewhere, spread, hot = (participant() for _ in range(5))
    arm(beside.watches, count, spacing=4096, length=WORD // 2)
    beside.watches.on_unwatch(b"", 1, Unwatch([1]))
    arm(elsewhere.watches, count, spacing=WORD)
    arm(spread.watches, count, spacing=4096)
    arm(hot.watches, count, spacing=0)
    watches = spread.watches
    begin = time.thread_time_ns()
    arm(watches, count, spacing=4096)
    renewal = (time.thread_time_ns() - begin) / count

    def look() -> float:
        idle = Watches(CAPACITY)
        begin = time.thread_time_ns()
        for _ in range(COMMITS):
            if idle.armed:
                idle.touch(0, WORD)
        looked = time.thread_time_ns()
        for _ in range(COMMITS):
            pass
        return (looked - begin - (time.thread_time_ns() - looked)) / COMMITS

    figures = {
        "watches": count,
        "bytes_per_watch": round(bytes_per_watch(count)),
        "arm_or_renew_ns": round(renewal),
        "commit_ns": {
            "no watch": best(rounds, lambda: commit_ns(unwatched, 4096)),
            "the look at `armed`": best(rounds, look),
            "10k watched words, another written": best(rounds, lambda: commit_ns(beside, 4096)),
            "10k watched words, one of them written": best(rounds, lambda: commit_ns(spread, 4096)),
        },
        "touch_ns": {
            "a word without a watch": best(rounds, lambda: touch_ns(watches, 64, WORD)),
            "a watched word": best(rounds, lambda: touch_ns(watches, 4096, WORD)),
            "a page of 512 watched words": best(
                rounds, lambda: touch_ns(elsewhere.watches, 4096, 4096)
            ),
            "a word that all watch": best(rounds, lambda: touch_ns(hot.watches, 0, WORD)),
            "16 MiB with 4096 watched words": best(1, lambda: touch_ns(watches, 0, 16 << 20)),
        },
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
